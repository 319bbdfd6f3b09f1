"""Sources: each module reads one foreign thing and knows nothing of rules or exporters."""
