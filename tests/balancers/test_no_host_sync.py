import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_coba import TaskWeights
from lightning_coba.balancers import FAMO, LBTW, CoBa, GradNorm, Observation

FORMS = [{"form": "paper"}, {"form": "paper", "significance": 0.01}, {"form": "mftcoder"}]
aten = torch.ops.aten
#: Operators that hand a value, or a size that depends on values, to the host.
SYNCHRONISING = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten._unique2,
    aten.is_nonzero,
}


class HostSyncs(TorchDispatchMode):
    """List the calls that would make the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet in SYNCHRONISING:
            self.calls.append(str(func))
        elif packet is aten._to_copy:
            if kwargs.get("device") is not None and torch.device(kwargs["device"]).type != args[0].device.type:
                self.calls.append(f"{func} {args[0].device} -> {kwargs['device']}")
        elif packet is aten.copy_:
            # Writing a Python number into a tensor passes it as a 0-dim CPU tensor; that waits for nothing.
            if args[0].device.type != args[1].device.type and args[1].dim() > 0:
                self.calls.append(f"{func} {args[1].device} -> {args[0].device}")
        elif packet in (aten.index, aten.index_put_, aten.index_put):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            self.calls += [f"{func} by mask"] * len(masks)
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    ("name", "offence"),
    [
        ("item", lambda t: t.sum().item()),
        ("float", lambda t: float(t[0])),
        ("truth value", lambda t: bool(t.any())),
        ("nonzero", lambda t: t.nonzero()),
        ("mask index", lambda t: t[t > 0]),
        ("masked write", lambda t: t.__setitem__(t > 0, torch.zeros(3))),
        ("masked_select", lambda t: t.masked_select(t > 0)),
        ("equal", lambda t: torch.equal(t, t)),
        ("to another device", lambda t: t.to("meta")),
        ("copy_ across devices", lambda t: torch.empty(3, device="meta").copy_(t)),
    ],
)
def test_the_counter_sees(name, offence):
    values = torch.ones(3)
    with HostSyncs() as syncs:
        offence(values)
    assert syncs.calls, name


def test_the_counter_lets_device_work_pass():
    with HostSyncs() as syncs:
        values = torch.ones(3).to(torch.float64)
        values[1] = values.sum()
        torch.where(values > 1, values, 0.0)
    assert syncs.calls == []


def run_on(device, options, first_record, num_records):
    generator = torch.Generator().manual_seed(0)
    balancer = CoBa(window_records=5, warmup_records=3, **options)
    state = balancer.init(4, device=device)._replace(record=first_record)
    rows = torch.rand(num_records, 4, generator=generator).add(0.5).to(device)
    mask = torch.ones(num_records, 4, dtype=torch.bool, device=device)
    with HostSyncs() as syncs:
        for index in range(num_records):
            record = Observation(step=index, present=mask[index], losses=rows[index])
            state, weights = balancer.update(state, record)
    return state, weights, syncs.calls


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_update_never_makes_the_host_wait(options, device):
    for first_record, num_records in ((0, 12), (1020, 8)):  # the peaks' buffer grows at 1024
        state, weights, calls = run_on(device, options, first_record, num_records)
        assert calls == []
    assert len(state.peaks) == 2048
    assert weights.device.type == device
    assert {v.device.type for v in state if isinstance(v, torch.Tensor)} == {device}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "balancer",
    [LBTW(), FAMO(), GradNorm(), LBTW(source="held_out"), FAMO(source="held_out"), GradNorm(source="held_out")],
    ids=lambda balancer: balancer.label,
)
def test_methods_on_training_steps_never_make_the_host_wait(balancer, device):
    state = balancer.init(4, device=device)
    values = torch.rand(12, 4, generator=torch.Generator().manual_seed(0)).add(0.5).to(device)
    present = torch.ones(4, dtype=torch.bool, device=device)
    with HostSyncs() as syncs:
        for index, row in enumerate(values):
            signals = dict.fromkeys(balancer.needs, row)
            state, weights = balancer.update(state, Observation(step=index, present=present, **signals))
    assert syncs.calls == []
    assert weights.device.type == device


@pytest.mark.parametrize("normalize", ["step", "present"])
def test_combine_of_a_tensor_never_makes_the_host_wait(normalize):
    weights = TaskWeights(["a", "b", "c"])
    with HostSyncs() as syncs:
        weights.combine(torch.ones(3), present=torch.tensor([True, False, True]), normalize=normalize)
        weights.combine({"a": torch.tensor(1.0), "c": torch.tensor(2.0)}, normalize=normalize)
    assert syncs.calls == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", FORMS)
def test_cuda_itself_sees_no_synchronisation(options):
    balancer = CoBa(window_records=5, warmup_records=3, **options)
    state = balancer.init(4, device="cuda")
    rows = torch.rand(50, 4, device="cuda") + 0.5
    mask = torch.ones(50, 4, dtype=torch.bool, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for index in range(50):
            state, weights = balancer.update(state, Observation(step=index, present=mask[index], losses=rows[index]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert weights.isfinite().all()
