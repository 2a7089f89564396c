"""Intel Gaudi (hpu) as a backend of lavcap."""
