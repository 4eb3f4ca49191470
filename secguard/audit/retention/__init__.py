"""How long events are kept: the policy, holds that stop deletion, and deletion that leaves every proof valid."""

from secguard.audit.retention.holds import Hold, add_hold, read_holds, release_hold
from secguard.audit.retention.policy import RetentionPolicy, load_policy
from secguard.audit.retention.prune import Plan, Pruned, plan_prune, prune

__all__ = [
    "Hold",
    "Plan",
    "Pruned",
    "RetentionPolicy",
    "add_hold",
    "load_policy",
    "plan_prune",
    "prune",
    "read_holds",
    "release_hold",
]
