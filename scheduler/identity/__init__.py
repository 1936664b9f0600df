"""Who we are and who our peers are: certificates, trust anchors, SPIFFE identities."""
