"""An auditor's question, answered from the ledger and recorded."""
