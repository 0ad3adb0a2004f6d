"""The steps of `synkti drill first-day`: requests to AWS and nodes; cli/core/first_day decides what they show."""
