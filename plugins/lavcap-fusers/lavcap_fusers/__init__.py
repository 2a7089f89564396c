"""Fusers that OT-Att is compared with: concat, cross attention, joint encoder, Q-Former and more."""
