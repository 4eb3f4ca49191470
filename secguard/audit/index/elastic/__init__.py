"""The search index on Elasticsearch, for sites that outgrow one machine."""

from secguard.audit.index.elastic.client import ElasticServer
from secguard.audit.index.elastic.index import EPOCH, ElasticIndex

__all__ = ["EPOCH", "ElasticIndex", "ElasticServer"]
