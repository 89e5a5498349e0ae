"""The pages of evidence: retention, versions, gates, episodes, studies."""
