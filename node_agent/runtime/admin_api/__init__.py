"""The admin API: metrics and drains, for operators and their tools."""
