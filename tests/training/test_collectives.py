"""The bytes that devices send in compiled programs, against what the shapes say."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.training.collectives import bytes_sent

MESH = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
DIVIDED = NamedSharding(MESH, P("fsdp"))
WHOLE = NamedSharding(MESH, P())
LAYERS = 6


def sent(function, *inputs, out=WHOLE):
    """The bytes that a function sends whose inputs are (shape, sharding)."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where) for shape, where in inputs]
    return bytes_sent(jax.jit(function, out_shardings=out).lower(*shapes).compile().as_text())


def test_nothing_is_sent_where_nothing_is_divided():
    assert sent(lambda x: x @ x, ((16, 16), WHOLE)) == {}


def test_an_array_is_gathered():
    assert sent(lambda x: x + 1, ((64, 32), DIVIDED)) == {"all-gather": 64 * 32 * 4 * 7 / 8}


def test_a_sum_is_reduced():
    reduced = sent(lambda x: jnp.sum(x, axis=0), ((64, 32), DIVIDED))
    assert reduced == {"all-reduce": 2 * 32 * 4 * 7 / 8}


def test_a_loop_counts_as_often_as_it_runs():
    by_layer = NamedSharding(MESH, P(None, "fsdp"))

    def layers(x, w):
        return jax.lax.scan(lambda y, layer: (jnp.tanh(y @ layer), None), x, w)[0]

    inputs = ((8, 64), DIVIDED), ((LAYERS, 64, 64), by_layer)
    gathered = sent(layers, *inputs, out=DIVIDED)
    assert gathered == {"all-gather": LAYERS * 64 * 64 * 4 * 7 / 8}


# As TPU's compiler writes a loop that gathers a layer beside the products of the one before.
SPREAD = """\
HloModule jit_step

%start (p: bf16[1,16,64]) -> bf16[1,64,64] {
  %p = bf16[1,16,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[1,64,64]{2,1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, \
replica_groups=mesh['axis_0'=1,'axis_1'=4] {'axis_1'}, dimensions={1}
  ROOT %custom-call.1 = (bf16[1,64,64]{2,1,0:T(8,128)}, u32[]{:S(2)}) custom-call(%all-gather.1)
}

%done (p: bf16[1,16,64]) -> bf16[1,64,64] {
  %p = bf16[1,16,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[1,64,64]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, \
replica_groups=mesh['axis_0'=1,'axis_1'=4] {'axis_1'}, dimensions={1}
}

%body (s: (s32[], bf16[1,16,64])) -> (s32[], bf16[1,16,64]) {
  %s = (s32[]{:T(128)}, bf16[1,16,64]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %g = bf16[1,16,64]{2,1,0} get-tuple-element(%s), index=1
  %f.1 = bf16[1,64,64]{2,1,0:T(8,128)(2,1)} fusion(%g), kind=kCustom, calls=%start
  %f.2 = bf16[1,64,64]{2,1,0:T(8,128)(2,1)} fusion(%g), kind=kCustom, calls=%done
  ROOT %t = (s32[]{:T(128)}, bf16[1,16,64]{2,1,0}) tuple(%s, %f.2)
}

%condition (s: (s32[], bf16[1,16,64])) -> pred[] {
  %constant.3 = s32[]{:T(128)} constant(30), metadata={stack_frame_id=1}
  %s = (s32[]{:T(128)}, bf16[1,16,64]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %constant.3), direction=LT, metadata={op_name="x"}
}

ENTRY %main (p: bf16[1,16,64]) -> (s32[], bf16[1,16,64]) {
  %p = bf16[1,16,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %while.1 = (s32[]{:T(128)}, bf16[1,16,64]{2,1,0:T(8,128)}) while(%p), \
condition=%condition, body=%body
}
"""


def test_a_collective_that_is_spread_counts_once():
    assert bytes_sent(SPREAD) == {"all-gather": 30 * 64 * 64 * 2 * 3 / 4}


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize(("step", "turns"), [(1, 8), (2, 4), (3, 3)])
def test_a_loop_counts_by_what_it_adds_to_its_counter(step, turns, typed):
    """As TPU's compiler writes a product whose parts come from one device after the other."""
    program = f"""\
%body (s: (f32[4,8], u32[], u32[])) -> (f32[4,8], u32[], u32[]) {{
  %other = u32[] constant(7)
  %step = u32[]{{:T(128)}} constant({step}), metadata={{stack_frame_id=1}}
  %s = (f32[4,8]{{1,0}}, u32[], u32[]) parameter(0)
  %part = f32[4,8]{{1,0}} get-tuple-element(%s), index=0
  %i = u32[]{{:T(128)}} get-tuple-element(%s), index=1
  %passed = u32[] get-tuple-element(%s), index=2
  %unused = u32[] add(%i, %other)
  %next = u32[]{{:T(128)}} add(%i, %step), metadata={{op_name="x"}}
  %got = f32[4,8]{{1,0}} collective-permute(%part), channel_id=1, source_target_pairs={{{{0,1}}}}
  ROOT %t = (f32[4,8]{{1,0}}, u32[], /*index=2*/u32[]) tuple(%got, %next, /*index=2*/%passed)
}}

%condition (s: (f32[4,8], u32[], u32[])) -> pred[] {{
  %limit = u32[]{{:T(128)}} constant(8)
  %s = (f32[4,8]{{1,0}}, u32[], u32[]) parameter(0)
  %i = u32[]{{:T(128)}} get-tuple-element(%s), index=1
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}}

ENTRY %main (p: f32[4,8]) -> (f32[4,8], u32[], u32[]) {{
  %p = (f32[4,8]{{1,0}}, u32[], u32[]) parameter(0)
  ROOT %while = (f32[4,8]{{1,0}}, u32[], u32[]) while(%p), condition=%condition, body=%body
}}
"""
    if typed:
        for name in ("i", "step", "limit", "next", "got"):
            program = program.replace(f"(%{name}", f"(u32[]{{:T(128)}} {name}")
            program = program.replace(f", %{name}", f", u32[] {name}")
    assert bytes_sent(program) == {"collective-permute": turns * 4 * 8 * 4}


@pytest.mark.parametrize(
    ("result", "name", "kind", "size"),
    [
        ("(f32[8,8]{1,0}, f32[8,8]{1,0})", "all-gather", "all-gather", 3 / 4 * 512),
        ("(f32[2,8]{1,0}, f32[8,8]{1,0})", "all-gather-start", "all-gather", 3 / 4 * 256),
        ("(f32[8,8]{1,0}, f32[8,8]{1,0})", "all-reduce-start", "all-reduce", 2 * 3 / 4 * 512),
        ("(f32[8]{0}, f32[8]{0})", "collective-permute-start", "collective-permute", 32),
        ("f32[2,8]{1,0}", "reduce-scatter", "reduce-scatter", 3 / 4 * 256),
    ],
)
def test_results_of_several_arrays(result, name, kind, size):
    program = (
        "ENTRY %main (p: f32[8]) -> f32[8] {\n"
        f"  ROOT %r = {result} {name}(%p), channel_id=1, replica_groups={{{{0,1,2,3}}}}\n}}\n"
    )
    assert bytes_sent(program) == {kind: pytest.approx(size)}


@pytest.mark.parametrize(
    ("groups", "devices"),
    [("{{0,1,2,3},{4,5,6,7}}", 4), ("[4,2]<=[8]", 2), ("mesh['a'=2,'b'=4] {'a','b'}", 8)],
)
def test_groups_of_devices(groups, devices):
    program = (
        "ENTRY %main (p: f32[8]) -> f32[8] {\n"
        f"  ROOT %r = f32[8]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, "
        "to_apply=%add\n}\n"
    )
    assert bytes_sent(program) == {"all-reduce": 2 * 32 * (devices - 1) / devices}
