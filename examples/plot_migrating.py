"""
Coming from another SAM
=======================

A training loop written for davda54/sam (``first_step``, ``second_step``)
runs unchanged. Closures, as pytorch_optimizer's SAM and torch's own
optimizers take them, are the shorter form. In skorch, no loop is needed.
"""

import copy

import torch
from braindecode import EEGClassifier

from braindecode_sam import SAM, FastEEGNet

N_STEPS = 5
N_EPOCHS = 3

torch.manual_seed(0)
X, y = torch.randn(64, 8, 250), torch.randint(2, (64,))
loss_function = torch.nn.functional.cross_entropy
model = FastEEGNet(n_chans=8, n_times=250, n_outputs=2, drop_prob=0.0)
two_steps, closures = copy.deepcopy(model), copy.deepcopy(model)

# %%
# The loop of davda54/sam
# -----------------------
# Only the import changes. The base optimizer is a class, and its options
# follow.

optimizer = SAM(
    two_steps.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9
)
for _ in range(N_STEPS):
    loss_function(two_steps(X), y).backward()
    optimizer.first_step(zero_grad=True)
    loss_function(two_steps(X), y).backward()
    optimizer.second_step(zero_grad=True)

# %%
# The same with a closure
# -----------------------
# In davda54/sam, the loop makes the first pass and the closure the second
# one. Here, the closure makes either pass, and ``step`` calls it twice, as
# torch's contract for closures allows. It returns the loss at the weights.

optimizer = SAM(
    closures.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9
)


def closure():
    """Compute the loss and its gradients."""
    optimizer.zero_grad()
    loss = loss_function(closures(X), y)
    loss.backward()
    return loss


for _ in range(N_STEPS):
    loss = optimizer.step(closure)

# %%
# Both forms give the same weights
# --------------------------------
# They do without dropout. With it, the closure is better: its second pass
# draws the masks of the first one, while in the two-step form the loop
# draws new ones.

pairs = zip(two_steps.parameters(), closures.parameters(), strict=True)
print("same weights:", all(torch.equal(a, b) for a, b in pairs))

# %%
# What is different
# -----------------
# Batch normalization sees each batch once, not a second time with the
# perturbed weights.

counts = [
    model.get_buffer("bnorm_temporal.num_batches_tracked").item()
    for model in (model, closures)
]
n_seen = counts[1] - counts[0]
print(f"{N_STEPS} steps, BatchNorm has seen {n_seen} batches")

# %%
# The state is that of the base optimizer. Checkpoints hold its momentum,
# and learning rate schedulers find ``lr`` in ``param_groups``.

state = optimizer.state_dict()
print("state of a weight:", *state["state"][0])
print("learning rate:", state["param_groups"][0]["lr"])

# %%
# In skorch and braindecode
# -------------------------
# ``EEGClassifier`` and ``EEGRegressor`` call ``step`` with a closure, so
# SAM is an optimizer like any other. AdamW is its default base.

for optimizer, options in {
    torch.optim.AdamW: {},
    SAM: {"optimizer__rho": 0.1, "optimizer__weight_decay": 0.01},
}.items():
    torch.manual_seed(0)
    net = EEGClassifier(
        "EEGNet", optimizer=optimizer, lr=1e-3, max_epochs=N_EPOCHS,
        batch_size=16, train_split=None, verbose=0, classes=[0, 1],
        **options,
    )  # fmt: skip
    net.fit(X.numpy(), y.numpy())
    losses = net.history[:, "train_loss"]
    print(f"{optimizer.__name__:>5}: {losses[0]:.3f} to {losses[-1]:.3f}")
