"""A custom training loop: with a closure, with two steps, in half precision."""

import torch

from braindecode_sam import SAM, FastEEGNet
from braindecode_sam.optim import GSAM

torch.manual_seed(0)
x, y = torch.randn(8, 5, 200), torch.randn(8, 1)
model = FastEEGNet(
    n_chans=5, n_times=200, n_outputs=1, final_layer_with_constraint=True
)
optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.01, momentum=0.9, rho=0.05)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)


def closure():
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(model(x), y)
    loss.backward()
    return loss


for _ in range(3):
    loss = optimizer.step(closure)
    scheduler.step()
print(loss.item() > 0, optimizer)

torch.nn.functional.mse_loss(model(x), y).backward()
optimizer.first_step(zero_grad=True)
torch.nn.functional.mse_loss(model(x), y).backward()
optimizer.second_step(zero_grad=True)
print(optimizer.n_steps)

other = GSAM(model.parameters(), lr=0.01)
with torch.autocast("cpu", torch.bfloat16):
    print(other.step(closure).dtype)

# Prints:
# True SAM(SGD (
# *
# 4
# torch.float32
