"""``python -m lavcap_core.cli``."""

import sys

from lavcap_core.cli import main

sys.exit(main())
