"""How `lavcap_core.media` reads files: `files` opens them, `sound` and `pictures` decode one track each."""
