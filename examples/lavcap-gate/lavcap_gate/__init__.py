"""A fuser for lavcap: each token plus the mean of the other modality, through a learned gate."""
