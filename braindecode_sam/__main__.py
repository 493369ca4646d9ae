"""``python -m braindecode_sam``: what is installed here, and does it fit together."""

import sys

from braindecode_sam.installation import report

text, fits = report()
print(text)
sys.exit(0 if fits else 1)
