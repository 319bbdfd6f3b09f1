"""The catalogue: signals, metrics, rules, spans and phases as data, each fact in one place only."""
