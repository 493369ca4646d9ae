"""``python -m braindecode_sam``: print the installed versions and check them."""

import sys

from braindecode_sam._installation import report

text, is_usable = report()
print(text)
sys.exit(0 if is_usable else 1)
