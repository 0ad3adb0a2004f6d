"""What `synkti drill first-day` decides: from what AWS and the nodes answered to a verdict. Pure."""
