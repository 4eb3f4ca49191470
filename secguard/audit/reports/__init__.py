"""Reports on accesses: who watched, searched and took away what, for which case, approved by whom."""

from secguard.audit.reports.accesses import Access, Accesses, Scope, gather
from secguard.audit.reports.document import access_report
from secguard.audit.reports.register import render_register, volumes_of

__all__ = ["Access", "Accesses", "Scope", "access_report", "gather", "render_register", "volumes_of"]
