"""speed_up and unspeed on a model of braindecode and on a net."""

import torch
from braindecode.models import ATCNet

from braindecode_sam import speed_up, unspeed

model = ATCNet(n_chans=22, n_outputs=4, n_times=1000, sfreq=250).eval()
x = torch.randn(2, 22, 1000)
with torch.no_grad():
    stock = model(x)
    print(speed_up(model)["layer"][0])
    print(torch.allclose(model(x), stock, atol=1e-4))
    unspeed(model)
    print(torch.equal(model(x), stock))
speed_up(torch.nn.Linear(8, 2), verbose=True)

# Prints:
# conv_block.conv1
# True
# True
# No layer gets faster.
