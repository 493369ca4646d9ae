"""Ordinary uses in which a wrapper of optimizers can easily be silently wrong."""

import copy
import functools
import gc
import inspect
import pickle

import pytest
import torch
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, parametrize
from torch.optim import optimizer as torch_optimizer

from braindecode_sam import SAM
from braindecode_sam.optim import GSAM, LookSAM, MomentumSAM
from tests.optim.helpers import FAMILY, Problem, assert_same, small_net
from tests.optim.test_sam_state import ALL_BASES, save_and_load

SGD = torch.optim.SGD
PERTURBING = [cls for cls in FAMILY if cls is not MomentumSAM]


# Options of the base optimizer with the name of one of SAM's


def shared_options():
    for cls in FAMILY:
        for base in ALL_BASES:
            names = set(inspect.signature(getattr(torch.optim, base)).parameters)
            own = names & set(cls._checks())
            yield from ((cls, base, name) for name in sorted(own))


SHARED = list(shared_options())


def test_some_options_are_shared():
    found = {(cls.__name__, base, name) for cls, base, name in SHARED}
    assert {("SAM", "Adadelta", "rho"), ("GSAM", "RMSprop", "alpha")} <= found


@pytest.mark.parametrize("base_name", ALL_BASES)
@pytest.mark.parametrize("cls", FAMILY)
def test_the_base_has_the_same_options_as_without_sam(cls, base_name):
    base = getattr(torch.optim, base_name)
    try:
        optimizer = cls(small_net().parameters(), base)
    except ValueError:
        assert cls is MomentumSAM
        return
    alone = base(small_net().parameters())
    assert optimizer.base_optimizer.defaults == alone.defaults
    for group, other in zip(
        optimizer.base_optimizer.param_groups, alone.param_groups, strict=True
    ):
        assert group.keys() == other.keys()
        assert all(group[name] == other[name] for name in other if name != "params")


@pytest.mark.parametrize(("cls", "base_name", "name"), SHARED)
def test_both_have_an_option_of_the_same_name(cls, base_name, name):
    base, spelled = getattr(torch.optim, base_name), f"base_optimizer__{name}"
    if cls is MomentumSAM:
        pytest.skip(f"{base_name} keeps no momentum by default")
    first, last = small_net()[0], small_net()[3]
    groups = [
        {"params": first.parameters()},
        {"params": last.parameters(), name: 0.3, spelled: 0.7},
    ]
    optimizer = cls(groups, base, **{name: 0.2, spelled: 0.6})
    optimizer.add_param_group(
        {"params": [torch.nn.Parameter(torch.ones(2))], name: 0.1, spelled: 0.8}
    )
    ours = [group[name] for group in optimizer.param_groups]
    theirs = [group[name] for group in optimizer.base_optimizer.param_groups]
    assert (ours, theirs) == ([0.2, 0.3, 0.1], [0.6, 0.7, 0.8])
    assert [group[spelled] for group in optimizer.param_groups] == theirs
    optimizer.param_groups[0][name] = 0.4  # as a schedule or set_params does
    optimizer.param_groups[0][spelled] = 0.5
    assert optimizer.base_optimizer.param_groups[0][name] == 0.5
    saved = save_and_load(optimizer.state_dict())
    new = cls([dict(group) for group in optimizer.param_groups], base)
    new.load_state_dict(saved)
    for group, other in zip(new.param_groups, optimizer.param_groups, strict=True):
        assert group.own == other.own
        assert group.base[name] == other.base[name]


def test_a_bare_adadeltas_state_is_not_the_radius():
    problem = Problem()
    plain = torch.optim.Adadelta(problem.net.parameters(), rho=0.8)
    problem.train(plain, 1)
    optimizer = SAM(problem.net.parameters(), torch.optim.Adadelta, rho=0.3)
    optimizer.load_state_dict(plain.state_dict())
    group = optimizer.param_groups[0]
    assert (group["rho"], group["base_optimizer__rho"]) == (0.3, 0.8)
    plain.load_state_dict(optimizer.state_dict())
    assert plain.param_groups[0]["rho"] == 0.8


@pytest.mark.parametrize("cls", [torch.optim.RMSprop, torch.optim.ASGD])
def test_gsam_and_looksam_leave_alpha_to_the_base(cls):
    for sam in (GSAM, LookSAM):
        optimizer = sam(small_net().parameters(), cls, alpha=0.25)
        assert optimizer.param_groups[0]["alpha"] == 0.25
        alone = cls(small_net().parameters()).param_groups[0]["alpha"]
        assert optimizer.base_optimizer.param_groups[0]["alpha"] == alone


# Copies of the weights that torch caches


def losses(cls, step, rho=2.0):
    torch.manual_seed(0)
    problem = Problem(small_net(dropout=0))
    optimizer = cls(problem.net.parameters(), SGD, lr=0.0, rho=rho, momentum=0.9)
    step(problem, optimizer)  # initializes the momentum for MomentumSAM
    step(problem, optimizer)
    return optimizer.last_loss, optimizer.last_perturbed_loss


def autocast_inside(problem, optimizer):
    closure = problem.closure(optimizer)

    def inside():
        with torch.autocast("cpu", torch.bfloat16):
            return closure()

    return optimizer.step(inside)


def autocast_around(problem, optimizer):
    with torch.autocast("cpu", torch.bfloat16):
        return optimizer.step(problem.closure(optimizer))


@pytest.mark.parametrize("cls", FAMILY)
def test_autocast_around_a_step_acts_inside_it(cls):
    inside, around = losses(cls, autocast_inside), losses(cls, autocast_around)
    for first, second in zip(inside, around, strict=True):
        assert first is second is None or torch.equal(first, second)
    if cls in (SAM, GSAM):
        assert around[1] > around[0] * 1.1


def test_two_steps_in_one_autocast():
    problem = Problem(small_net(dropout=0))
    optimizer = SAM(problem.net.parameters(), SGD, lr=0.0, rho=2.0)
    with torch.autocast("cpu", torch.bfloat16):
        problem.closure(optimizer)()
        clean = problem.loss().item()
        optimizer.first_step(zero_grad=True)
        perturbed = problem.loss()
        perturbed.backward()
        optimizer.second_step()
        assert problem.loss().item() == clean
    assert perturbed.item() > 1.1 * clean


def test_parametrizations_that_are_cached_around_a_step():
    torch.manual_seed(0)
    net = torch.nn.Sequential(parametrizations.weight_norm(torch.nn.Linear(5, 1)))
    problem = Problem(net)
    optimizer = SAM(net.parameters(), SGD, lr=0.0, rho=2.0)
    problem.train(optimizer, 1)
    expected = optimizer.last_perturbed_loss
    assert expected > 1.1 * optimizer.last_loss
    with parametrize.cached():
        problem.train(optimizer, 1)
    assert torch.equal(optimizer.last_perturbed_loss, expected)


# Maximizing


@pytest.mark.parametrize("where", ["constructor", "group"])
@pytest.mark.parametrize("cls", FAMILY)
def test_to_maximize_is_to_minimize_the_negative(cls, where):
    results = []
    for maximize in (False, True):
        torch.manual_seed(0)
        problem = Problem(small_net(dropout=0))
        sign = -1 if maximize else 1
        loss = problem.loss
        problem.loss = lambda loss=loss, sign=sign: sign * loss()
        params = problem.net.parameters()
        options = {"lr": 0.1, "momentum": 0.9, "rho": 0.3}
        if where == "group":
            params = [{"params": params, "maximize": maximize}]
        else:
            options["maximize"] = maximize
        optimizer = cls(params, SGD, **options)
        found = problem.train(optimizer, 6)
        results.append([sign * value for value in found])
    assert results[0] == pytest.approx(results[1], rel=1e-6)


@pytest.mark.parametrize(
    "base", [b for b in ALL_BASES if "maximize" in
             inspect.signature(getattr(torch.optim, b)).parameters]
)  # fmt: skip
def test_the_ascent_goes_to_the_worse_side(base):
    for maximize in (False, True):
        torch.manual_seed(0)
        problem = Problem(small_net(dropout=0))
        optimizer = SAM(
            problem.net.parameters(), getattr(torch.optim, base), rho=0.1,
            maximize=maximize,
        )  # fmt: skip
        problem.train(optimizer, 1)
        rise = optimizer.last_perturbed_loss - optimizer.last_loss
        assert rise < 0 if maximize else rise > 0


# Buffers of any module


class Counter(torch.nn.Module):
    """Counts its passes in three ways."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n_passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("codes", torch.zeros(5))
        self.register_buffer("rebound", torch.zeros(()))
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.n_passes += 1
        self.codes.lerp_(x.detach().mean(0), 0.1)
        self.rebound = self.rebound + 1
        return x + self.codes


class WithList(torch.nn.Module):
    """Keeps layers outside _modules."""

    def __init__(self):
        super().__init__()
        self.layers = [torch.nn.BatchNorm1d(5), Counter()]
        self.by_name = {"norm": torch.nn.BatchNorm1d(5)}
        self.hidden = functools.partial(torch.nn.BatchNorm1d(5))
        self.linear = torch.nn.Linear(5, 1)

    def kept(self):
        return torch.nn.ModuleList(
            [*self.layers, *self.by_name.values(), self.hidden.func]
        )

    def forward(self, x):
        for layer in (*self.layers, *self.by_name.values(), self.hidden):
            x = layer(x)
        return self.linear(x)


@pytest.mark.parametrize("cls", PERTURBING)
@pytest.mark.parametrize("is_two_step", [False, True])
def test_buffers_of_any_module_move_once(cls, is_two_step):
    states = []
    for optimizer_class in (None, cls):
        torch.manual_seed(0)
        net = WithList()
        net.add_module("counter", Counter())
        net.register_forward_pre_hook(lambda net, args: net.counter(args[0]))
        problem = Problem(net)
        if optimizer_class is None:
            for _ in range(3):
                problem.loss()
        else:
            optimizer = cls(net.parameters(), SGD, lr=0.0, rho=0.5)
            for _ in range(3):
                if is_two_step:
                    problem.closure(optimizer)()
                    optimizer.first_step(zero_grad=True)
                    problem.loss().backward()
                    optimizer.second_step()
                else:
                    problem.train(optimizer, 1)
        states.append({**problem.snapshot(), **net.kept().state_dict()})
    assert states[0]["counter.n_passes"] == 3
    assert states[0]["counter.rebound"] == 3
    assert_same(*states)


def test_layers_that_are_added_during_training():
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


ROUTES = {
    "slice": lambda net, x: net[2:](net[:2](x)),
    "wrapper": lambda net, x: torch.nn.Sequential(net, torch.nn.Tanh())(x),
    "net, then slice": lambda net, x: net(x) + net[3:](net[:3](x + 1)),
    "slice, then net": lambda net, x: net[3:](net[:3](x)) + net(x + 1),
    "layers, then wrapper": lambda net, x: (
        net[3](net[1](net[0](x))) + torch.nn.Sequential(*net)(x + 1)
    ),
    "net, then a shallow copy": lambda net, x: net(x) + copy.copy(net)(x + 1),
    "kept wrapper": lambda net, x: net(x) + net.wrapper[0](x + 1),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("is_two_step", [False, True])
def test_a_module_that_is_reached_by_several_routes(route, is_two_step):
    states = []
    for rho in (None, 1e-30):
        torch.manual_seed(0)
        net = small_net(dropout=0)
        net.wrapper = [torch.nn.Sequential(net[:2], *net[2:])]
        params = list(net.parameters())
        x = torch.randn(16, 5)

        def closure(net=net, x=x, params=params):
            for p in params:
                p.grad = None
            loss = ROUTES[route](net, x).square().mean()
            loss.backward()
            return loss

        optimizer = SAM(params, SGD, lr=0.0, rho=rho or 0.0)
        for _ in range(3):
            if is_two_step and rho:
                closure()
                optimizer.first_step()
                closure()
                optimizer.second_step()
            else:
                optimizer.step(closure)
        states.append(net.state_dict())
    assert states[0]["1.num_batches_tracked"] in (3, 6)
    assert_same(*states)


BUFFERS = {
    "sparse": lambda: torch.eye(5).to_sparse(),
    "CSR": lambda: torch.eye(5).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.eye(5), 0.1, 0, torch.qint8),
    "conjugate": lambda: torch.eye(5, dtype=torch.complex64).conj(),
    "expanded": lambda: torch.ones(1, 5).expand(5, 5),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}


@pytest.mark.parametrize("name", BUFFERS)
@pytest.mark.parametrize("rho", [0.0, 0.5])
@pytest.mark.filterwarnings("ignore:.*[Qq]uantiz.*")
@pytest.mark.filterwarnings("ignore:.*Sparse CSR.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
def test_buffers_of_any_layout(name, rho):
    problem = Problem()
    buffer = BUFFERS[name]()
    problem.net.register_buffer("adjacency", buffer)
    optimizer = SAM(problem.net.parameters(), rho=rho)
    net = problem.net
    problem.loss = lambda: net[3](net[2](net[1](net[0](problem.x)))).square().mean()
    net.register_forward_pre_hook(lambda net, args: net[0](args[0]))
    problem.train(optimizer, 2)
    optimizer.step(problem.closure(optimizer))
    assert net.adjacency is buffer


class Grows(torch.nn.Linear):
    """Replaces and resizes its buffers in unusual ways."""

    def __init__(self):
        super().__init__(5, 1)
        self.register_buffer("bound", torch.zeros(1))
        self.register_buffer("resized", torch.ones(2))

    def forward(self, x):
        with torch.inference_mode():
            self.bound = self.bound + 1
        self.resized.resize_(len(self.resized) + 1)[-1] = 5
        return super().forward(x)


@pytest.mark.parametrize("fails_in", [0, 1, 2])
def test_buffers_that_are_replaced_in_inference_mode_or_resized(fails_in):
    problem = Problem(Grows())
    optimizer = SAM(problem.net.parameters(), rho=0.5)
    problem.train(optimizer, 2)
    assert problem.net.bound == 2
    assert problem.net.resized.tolist() == [1, 1, 5, 5]
    if fails_in:
        closure, calls = problem.closure(optimizer), []

        def failing():
            calls.append(closure())
            if len(calls) == fails_in:
                raise MemoryError("in a pass")

        with pytest.raises(MemoryError, match="in a pass"):
            optimizer.step(failing)
        assert problem.net.bound == 2
        assert problem.net.resized.tolist() == [1, 1, 5, 5]


def test_a_step_in_its_own_closure_is_refused():
    problem = Problem()
    optimizer = SAM(problem.net.parameters())
    closure = problem.closure(optimizer)
    before = problem.snapshot()
    with pytest.raises(RuntimeError, match=r"SAM.step was called inside its own"):
        optimizer.step(lambda: optimizer.step(closure))
    assert_same(problem.snapshot(), before)
    problem.train(optimizer, 1)


# Between the passes


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


def assert_plain(net):
    for module in net.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            assert not hooks
    net(torch.randn(4, 5))
    assert not torch_module._global_forward_pre_hooks
    assert not torch_module._global_forward_hooks


def test_an_optimizer_that_is_deleted_between_the_two_steps_leaves_no_hook():
    problem = Problem()
    optimizer = SAM(problem.net.parameters())
    problem.closure(optimizer)()
    optimizer.first_step()
    assert torch_module._global_forward_pre_hooks
    del optimizer
    gc.collect()
    problem.loss()
    assert not torch_module._global_forward_pre_hooks


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
}


@pytest.mark.parametrize("make_copy", COPIES)
@pytest.mark.parametrize("is_two_step", [False, True])
def test_copies_that_are_made_between_the_passes_are_plain(make_copy, is_two_step):
    problem, copies = Problem(), []
    optimizer = SAM(problem.net.parameters())
    closure = problem.closure(optimizer)

    def copying():
        loss = closure()
        copies.append(COPIES[make_copy](problem.net))
        return loss

    if is_two_step:
        closure()
        optimizer.first_step()
        copying()
        optimizer.second_step()
    else:
        optimizer.step(copying)
    for net in copies:
        assert_plain(net)
    problem.train(optimizer, 1)
    assert_plain(problem.net)


class CopiesItself(torch.nn.Sequential):
    """Keeps a copy of itself that its forward makes."""

    def forward(self, x):
        object.__setattr__(self, "twin", copy.deepcopy(self))
        return super().forward(x)


@pytest.mark.parametrize("is_two_step", [False, True])
def test_copies_that_are_made_in_a_forward_are_plain(is_two_step):
    problem = Problem(CopiesItself(*small_net()))
    optimizer = SAM(problem.net.parameters())
    if is_two_step:
        problem.closure(optimizer)()
        optimizer.first_step()
        problem.closure(optimizer)()
        optimizer.second_step()
    else:
        problem.train(optimizer, 1)
    assert_plain(torch.nn.Sequential(*problem.net.twin))


@pytest.mark.parametrize("make_copy", COPIES)
def test_a_perturbed_optimizer_refuses_to_be_copied(make_copy):
    problem = Problem()
    optimizer = SAM(problem.net.parameters())
    problem.closure(optimizer)()
    optimizer.first_step()
    with pytest.raises(RuntimeError, match="copied while its weights were perturbed"):
        COPIES[make_copy](optimizer)
    optimizer.restore()
    COPIES[make_copy](optimizer)


# Hooks of torch


@pytest.mark.parametrize("cls", FAMILY)
def test_global_step_hooks_run_once_per_step(cls):
    problem, seen = Problem(), []
    optimizer = cls(problem.net.parameters())
    handles = [
        torch_optimizer.register_optimizer_step_pre_hook(
            lambda opt, args, kwargs: seen.append(("pre", type(opt)))
        ),
        torch_optimizer.register_optimizer_step_post_hook(
            lambda opt, args, kwargs: seen.append(("post", type(opt)))
        ),
    ]
    try:
        problem.train(optimizer, 1)
    finally:
        for handle in handles:
            handle.remove()
    assert seen == [("pre", cls), ("post", cls)]


def test_hooks_of_the_base_run_too():
    problem, seen = Problem(), []
    optimizer = SAM(problem.net.parameters())
    optimizer.base_optimizer.register_step_pre_hook(lambda *args: seen.append("pre"))
    optimizer.base_optimizer.register_step_post_hook(lambda *args: seen.append("post"))
    problem.train(optimizer, 1)
    assert seen == ["pre", "post"]


def test_a_profiler_sees_the_step():
    problem = Problem()
    optimizer = SAM(problem.net.parameters())
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU]
    ) as profiler:
        problem.train(optimizer, 1)
    names = [event.name for event in profiler.events()]
    assert names.count("Optimizer.step#SAM.step") == 1


def test_hooks_of_loading_and_saving():
    problem, seen = Problem(), []
    optimizer = SAM(problem.net.parameters())
    problem.train(optimizer, 3)
    wrapped = {"optimizer": optimizer.state_dict()}
    new = SAM(problem.net.parameters())
    new.register_load_state_dict_pre_hook(lambda opt, state: state["optimizer"])
    new.register_load_state_dict_post_hook(lambda opt: seen.append(opt.n_steps))
    new.register_state_dict_pre_hook(lambda opt: seen.append("saving"))
    new.register_state_dict_post_hook(lambda opt, state: {"optimizer": state})
    new.load_state_dict(wrapped)
    assert (seen, new.n_steps) == ([3], 3)
    assert new.state_dict()["optimizer"]["param_groups"][0]["n_steps"] == 3
    assert seen == [3, "saving"]


# Parameters that SAM does not perturb


def test_lazy_parameters():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.LazyLinear(8), torch.nn.LazyBatchNorm1d())
    net.append(torch.nn.LazyLinear(1))
    problem = Problem(net)
    optimizer = SAM(net.parameters(), SGD, lr=0.1, rho=0.5)
    losses = problem.train(optimizer, 3)
    assert optimizer.last_perturbed_loss > optimizer.last_loss
    assert losses[-1] < losses[0]
    assert net[1].num_batches_tracked == 3


FROZEN = {
    "integers": lambda: torch.ones(3, dtype=torch.int64),
    "booleans": lambda: torch.ones(3, dtype=torch.bool),
    "float8": lambda: torch.ones(3).to(torch.float8_e4m3fn),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "floats": lambda: torch.ones(3),
}


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("name", FROZEN)
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.filterwarnings("ignore:.*[Qq]uantiz.*")
def test_frozen_parameters_of_any_kind(cls, name, adaptive):
    problem = Problem()
    frozen = torch.nn.Parameter(FROZEN[name](), requires_grad=False)
    params = [frozen, *problem.net.parameters()]
    optimizer = cls(params, SGD, lr=0.1, momentum=0.9, rho=0.5, adaptive=adaptive)
    before = frozen.detach().clone()
    problem.train(optimizer, 6)
    assert torch.equal(before.to_dense(), frozen.detach().to_dense())
    loaded = save_and_load(optimizer.state_dict())
    optimizer.load_state_dict(loaded)
    problem.train(optimizer, 1)


def test_frozen_weights_cost_no_memory():
    problem = Problem()
    frozen = torch.nn.Parameter(torch.ones(10**6), requires_grad=False)
    for cls in FAMILY:
        optimizer = cls([frozen, *problem.net.parameters()], SGD, momentum=0.9)
        problem.train(optimizer, 6)
        groups = [*optimizer._flat.groups, *getattr(optimizer, "_both", [])]
        assert all(p is not frozen for group in groups for p in group.params)
        assert not optimizer.state.get(frozen)


def test_a_shared_weight_and_a_layer_that_is_unfrozen():
    problem = Problem(small_net(dropout=0))
    first, last = problem.net[0], torch.nn.Linear(5, 8)
    last.weight = first.weight  # shared
    first.register_module("twin", last)
    problem.net[3].requires_grad_(False)
    optimizer = SAM(problem.net.parameters(), SGD, lr=0.1, rho=0.5)
    frozen = problem.net[3].weight.clone()
    problem.train(optimizer, 2)
    assert torch.equal(problem.net[3].weight, frozen)
    problem.net[3].requires_grad_(True)
    problem.train(optimizer, 2)
    assert not torch.equal(problem.net[3].weight, frozen)


def test_a_closure_without_zero_grad_steps_along_the_second_gradient():
    """The closure is that of davda54/sam's README."""
    results = []
    for zeroes in (True, False):
        torch.manual_seed(0)
        problem = Problem(small_net(dropout=0))
        optimizer = SAM(problem.net.parameters(), SGD, lr=0.1, rho=0.5)

        def closure(problem=problem, optimizer=optimizer, zeroes=zeroes):
            if zeroes:
                optimizer.zero_grad()
            loss = problem.loss()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
            optimizer.zero_grad()
        results.append(problem.snapshot())
    assert_same(*results)


def test_a_repr_names_base_rho_and_interval():
    optimizer = SAM(small_net().parameters(), SGD, rho=0.2, interval=3)
    assert repr(optimizer).startswith("SAM(SGD, rho=0.2, interval=3) (\n")
    groups = [{"params": [p], "rho": i} for i, p in enumerate(small_net().parameters())]
    assert "rho=[0, 1, 2, 3, 4, 5]" in repr(SAM(groups[:6]))
