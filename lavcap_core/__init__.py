"""lavcap: captions of what a machine hears and sees, out of installable plugins wired by a checked YAML spec."""
