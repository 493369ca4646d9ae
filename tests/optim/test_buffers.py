"""Promise 4: after a step, buffers and random numbers are those of one plain pass."""

import copy
import functools
import gc
import pickle
import threading

import pytest
import torch
from torch.func import functional_call
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, spectral_norm

from braindecode_sam import SAM
from braindecode_sam.optim import FriendlySAM
from tests.optim.helpers import Problem, assert_same, small_net

SGD = torch.optim.SGD
FORMS = {"step": Problem.train, "two steps": Problem.train_in_two_steps}


class Counter(torch.nn.Module):
    """Changes buffers in all ways."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n_passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("codes", torch.zeros(5))
        self.register_buffer("rebound", torch.zeros(()))
        self.register_buffer("inferred", torch.zeros(()))
        self.register_buffer("resized", torch.ones(2))
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.n_passes += 1
        self.codes.lerp_(x.detach().mean(0), 0.1)
        self.rebound = self.rebound + 1
        with torch.inference_mode():
            self.inferred = self.inferred + 1
        self.resized.resize_(len(self.resized) + 1)[-1] = 5
        return x + self.codes


class WithList(torch.nn.Module):
    """Keeps layers outside _modules, and calls one of them from a hook."""

    def __init__(self):
        super().__init__()
        self.layers = [torch.nn.BatchNorm1d(5), Counter()]
        self.by_name = {"norm": torch.nn.BatchNorm1d(5)}
        self.hidden = functools.partial(torch.nn.BatchNorm1d(5))
        self.linear = torch.nn.Linear(5, 1)
        self.counter = Counter()
        self.register_forward_pre_hook(lambda net, args: net.counter(args[0]))

    def kept(self):
        return torch.nn.ModuleList(
            [*self.layers, *self.by_name.values(), self.hidden.func]
        )

    def forward(self, x):
        for layer in (*self.layers, *self.by_name.values(), self.hidden):
            x = layer(x)
        return self.linear(x)


def assert_moved_once(make_problem, cls=SAM, **options):
    """Compare three steps, in both forms, with three forward passes alone."""
    states = []
    for form in (None, *FORMS):
        torch.manual_seed(0)
        problem, kept = make_problem()
        if form:
            optimizer = cls(problem.net.parameters(), SGD, lr=0.0, rho=0.5, **options)
            FORMS[form](problem, optimizer, 3)
        else:
            for _ in range(3):
                problem.loss()
        states.append({**problem.snapshot(), **kept.state_dict()})
    for state in states[1:]:
        assert_same(states[0], state)
    return states[0]


@pytest.mark.parametrize("cls", [SAM, FriendlySAM])
def test_buffers_of_any_module_move_once(cls):
    def make():
        net = WithList()
        return Problem(net), net.kept()

    state = assert_moved_once(make, cls)
    assert state["counter.n_passes"] == state["counter.rebound"] == 3


MODULES = {
    "batch, cumulative": lambda: torch.nn.BatchNorm1d(5, momentum=None),
    "batch, lazy": torch.nn.LazyBatchNorm1d,
    "instance": lambda: torch.nn.InstanceNorm1d(5, track_running_stats=True),
    "scripted": lambda: torch.jit.script(torch.nn.BatchNorm1d(5)),
    "spectral": lambda: parametrizations.spectral_norm(torch.nn.Linear(5, 5)),
    "spectral, old": lambda: spectral_norm(torch.nn.Linear(5, 5)),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.spectral_norm.*deprecated")
def test_buffers_of_torchs_modules_move_once(name):
    def make():
        net = torch.nn.Sequential(MODULES[name](), torch.nn.Linear(5, 1))
        problem = Problem(net)
        problem.x, problem.y = torch.randn(8, 5, 5), torch.randn(8, 5, 1)
        return problem, net

    assert_moved_once(make)


ROUTES = {
    "slice, then net": lambda net, x: net[3:](net[:3](x)) + net(x + 1),
    "net, then slice": lambda net, x: net(x) + net[3:](net[:3](x + 1)),
    "layers, then wrapper": lambda net, x: (
        net[3](net[1](net[0](x))) + torch.nn.Sequential(*net)(x + 1)
    ),
    "net, then a shallow copy": lambda net, x: net(x) + copy.copy(net)(x + 1),
}


@pytest.mark.parametrize("route", ROUTES)
def test_buffers_that_are_reached_by_several_routes_move_once(route):
    def make():
        net = small_net(dropout=0)
        problem = Problem(net)
        problem.loss = lambda: ROUTES[route](net, problem.x).square().mean()
        return problem, net

    assert assert_moved_once(make)["1.num_batches_tracked"] == 6


def test_buffers_of_layers_that_are_added_during_training_move_once():
    problem = Problem(torch.nn.Sequential(torch.nn.Linear(5, 1)))
    optimizer = SAM(problem.net.parameters(), rho=0.5)
    problem.train(optimizer, 1)
    problem.net.insert(0, Counter())
    problem.train(optimizer, 2)
    counter = problem.net[0]
    assert (counter.n_passes, counter.rebound) == (2, 2)
    counter.codes = torch.zeros(5)  # replaced by the user
    problem.train(optimizer, 1)
    assert counter.n_passes == 3


def test_a_buffer_that_two_modules_share_moves_once_each():
    shared, layers = torch.zeros(()), [Counter(), Counter()]
    for layer in layers:
        layer.n_passes = shared
    problem = Problem()
    problem.loss = lambda: problem.net(layers[1](layers[0](problem.x))).square().mean()
    problem.train(SAM(problem.net.parameters(), rho=0.5), 3)
    assert shared == 6
    assert layers[0].n_passes is layers[1].n_passes is shared


class Forgets(torch.nn.Module):
    """Deletes a buffer in its second forward."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros(()))
        self.register_buffer("warm", torch.ones(()))

    def forward(self, x):
        self.n += 1
        if self.n == 2:
            del self.warm
        return x


def test_a_buffer_that_the_second_pass_deletes_comes_back():
    net = torch.nn.Sequential(Forgets(), *small_net())
    problem = Problem(net)
    problem.train(SAM(net.parameters(), rho=0.5), 1)
    assert (net[0].n, net[0].warm) == (1, 1)


def test_graphs_of_before_a_step_stay_valid():
    problem, x = Problem(), torch.ones(4, 5, requires_grad=True)
    constant = torch.nn.BatchNorm1d(5).eval()
    loss, earlier = problem.loss, constant(x).sum()
    problem.loss = lambda: loss() + constant(problem.x).mean()
    problem.train(SAM(problem.net.parameters()), 1)
    earlier.backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("transform", ["vmap", "grad"])
def test_modules_within_transforms_of_torch_func(transform):
    net = torch.nn.Sequential(Scaled(), torch.nn.Linear(5, 1))
    problem = Problem(net)
    optimizer, buffers = SAM(net.parameters(), rho=0.1), dict(net.named_buffers())

    def loss(params, buffers, x, y):
        return (functional_call(net, (params, buffers), (x,)) - y).square().mean()

    def closure():
        optimizer.zero_grad()
        params = {name: p.detach() for name, p in net.named_parameters()}
        gradient = torch.func.grad(loss)
        if transform == "vmap":  # a gradient for each sample
            gradient = torch.func.vmap(gradient, (None, None, 0, 0))
        found = gradient(params, buffers, problem.x, problem.y)
        for name, p in net.named_parameters():
            p.grad = found[name].mean(0) if transform == "vmap" else found[name]
        return problem.loss().detach()

    losses = [optimizer.step(closure).item() for _ in range(4)]
    assert losses[-1] < losses[0]
    assert net[0].scale is buffers["0.scale"]
    copy.deepcopy(net)


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(5))

    def forward(self, x):
        return x * self.scale


BUFFERS = {
    "sparse": lambda: torch.eye(5).to_sparse(),
    "expanded": lambda: torch.ones(1, 5).expand(5, 5),
    "conjugate": lambda: torch.eye(5, dtype=torch.complex64).conj(),
    "quantized": lambda: torch.quantize_per_tensor(torch.eye(5), 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("name", BUFFERS)
@pytest.mark.filterwarnings("ignore:.*[Qq]uantiz.*")
def test_buffers_that_no_pass_changes_may_have_other_layouts(name):
    problem = Problem()
    buffer = BUFFERS[name]()
    problem.net.register_buffer("adjacency", buffer)
    problem.train(SAM(problem.net.parameters(), rho=0.5), 3)
    assert problem.net.adjacency is buffer
    assert torch.equal(buffer.to_dense(), BUFFERS[name]().to_dense())


def test_random_numbers_continue_as_after_one_pass_also_if_the_second_one_fails():
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), rho=0.5)
    closure, states = problem.closure(optimizer), []

    def drawing():
        loss = closure()
        states.append(torch.get_rng_state())
        if problem.calls % 2 == 0:
            torch.rand(100)  # more than in the first pass
            if fails:
                raise MemoryError("second pass")
        return loss

    fails = False
    optimizer.step(drawing)
    assert torch.equal(*states)  # both passes draw the same
    assert torch.equal(torch.get_rng_state(), states[0])
    torch.rand(3)
    fails = True
    with pytest.raises(MemoryError, match="second pass"):
        optimizer.step(drawing)
    assert torch.equal(torch.get_rng_state(), states[2])


# Other networks, and copies


def test_models_that_train_between_the_two_steps_continue():
    problem = Problem(small_net(dropout=0))
    other, teacher = small_net(), small_net().eval()
    optimizer = SAM(problem.net.parameters(), rho=0.5)
    rival = SAM(other.parameters(), rho=0.5)
    for _ in range(3):
        problem.closure(optimizer)()
        optimizer.first_step(zero_grad=True)
        other(problem.x)  # in training mode, as the other model of a GAN
        rival.step(Problem(other).closure(rival))
        teacher(problem.x)
        problem.loss().backward()
        optimizer.second_step()
    assert other[1].num_batches_tracked == 6
    assert problem.net[1].num_batches_tracked == 3


def test_an_optimizer_that_is_deleted_between_its_two_steps_leaves_no_hook():
    problem = Problem()
    optimizer = SAM(problem.net.parameters())
    problem.closure(optimizer)()
    optimizer.first_step()
    del optimizer
    gc.collect()
    assert_plain(problem.net)


def test_models_in_other_threads_continue():
    problem, other = Problem(), torch.nn.BatchNorm1d(5)
    optimizer = SAM(problem.net.parameters(), rho=0.5)
    closure = problem.closure(optimizer)

    def closure_with_a_thread():
        thread = threading.Thread(target=other, args=(problem.x,))
        thread.start()
        thread.join()
        return closure()

    optimizer.step(closure_with_a_thread)
    assert problem.net[1].num_batches_tracked == 1
    assert other.num_batches_tracked == 2


def assert_plain(net):
    torch.nn.Sequential(*net)(torch.randn(4, 5))
    assert not torch_module._global_forward_pre_hooks
    assert not torch_module._global_forward_hooks


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
}


class CopiesItself(torch.nn.Sequential):
    """Makes copies of itself in each forward."""

    def forward(self, x):
        COPIED.extend(make_copy(self) for make_copy in COPIES.values())
        return super().forward(x)


COPIED = []


@pytest.mark.parametrize("form", FORMS)
def test_copies_that_are_made_in_a_pass_are_plain(form):
    problem = Problem(CopiesItself(*small_net()))
    loss = problem.loss

    def copying():
        value = loss()
        COPIED.extend(make_copy(problem.net) for make_copy in COPIES.values())
        return value

    problem.loss = copying
    COPIED.clear()
    FORMS[form](problem, SAM(problem.net.parameters()), 1)
    assert len(COPIED) == 8
    for net in (*COPIED, problem.net):
        assert_plain(net)


@pytest.mark.parametrize("make_copy", COPIES)
def test_a_perturbed_optimizer_refuses_to_be_copied(make_copy):
    problem = Problem()
    optimizer = SAM(problem.net.parameters())
    problem.closure(optimizer)()
    optimizer.first_step()
    with pytest.raises(RuntimeError, match="pickle or deepcopy was called between"):
        COPIES[make_copy](optimizer)
    optimizer.restore()
    COPIES[make_copy](optimizer)
