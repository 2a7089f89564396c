"""Optimal transport for lavcap: Sinkhorn and EMD transports, OT alignment and loss, OT-Att."""
