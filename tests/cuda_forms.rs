//! Sums of blocks and attention in a CUDA device's memory. Their results from operands of the host are compared with the reference by
//! forms.rs, forms_gradients.rs and forms_helpers.rs.

mod common;

use common::cuda::cuda;
use common::{Random, assert_same};
use trilinear::{
    Block, Context, Device, DeviceTensor, Element, Error, Gradient, Interaction, View, ViewMut, Wanted, WantedBlock,
};

/// Features on all sides, and the ranks of a core.
const R: usize = 9;
const RANKS: [usize; 3] = [4, 3, 5];

/// z, x and g; A, B, C and G of a Tucker block, s of a generated scale, d of a gate; the bias.
#[derive(Clone, Copy)]
struct Operands<'a, T> {
    inputs: [View<'a, T, 2>; 3],
    factors: [View<'a, T, 2>; 3],
    core: View<'a, T, 3>,
    s: View<'a, T, 2>,
    d: View<'a, T, 1>,
    b: View<'a, T, 1>,
}

impl<'a, T: Element> Operands<'a, T> {
    fn blocks(&self) -> [Block<'a, T>; 3] {
        let [a, b, c] = self.factors;
        let tucker = Block::tucker(self.core).with_a(a).unwrap().with_b(b).unwrap().with_c(c).unwrap();
        [Block::diagonal(self.d), tucker, Block::identity(R).with_b(self.s).unwrap()]
    }
}

/// Data on the host, and with `call` the same on the device.
fn with_operands<T: Element>(context: Context, n: usize, call: impl Fn(Operands<'_, T>, Operands<'_, T>)) {
    let mut random = Random(4);
    let mut matrix = |rows: usize, columns: usize| random.integers::<T>(rows * columns, 2);
    let [ra, rb, rc] = RANKS;
    let inputs = [0; 3].map(|_| matrix(n, R));
    let factors = RANKS.map(|rank| matrix(R, rank));
    let (core, s, d, b) = (matrix(ra, rb * rc), matrix(R, 1), matrix(1, R), matrix(1, R));
    let host = Operands {
        inputs: inputs.each_ref().map(|values| View::new(values, [n, R]).unwrap()),
        factors: [0, 1, 2].map(|side| View::new(&factors[side], [R, RANKS[side]]).unwrap()),
        core: View::new(&core, RANKS).unwrap(),
        s: View::new(&s, [R, 1]).unwrap(),
        d: View::vector(&d),
        b: View::vector(&b),
    };
    fn upload<T: Element, const D: usize>(context: Context, view: View<'_, T, D>) -> DeviceTensor<T, D> {
        DeviceTensor::from_view(context.device(), view).unwrap()
    }
    let inputs = host.inputs.map(|view| upload(context, view));
    let factors = host.factors.map(|view| upload(context, view));
    let (core, s, d, b) =
        (upload(context, host.core), upload(context, host.s), upload(context, host.d), upload(context, host.b));
    let device = Operands {
        inputs: inputs.each_ref().map(DeviceTensor::view),
        factors: factors.each_ref().map(DeviceTensor::view),
        core: core.view(),
        s: s.view(),
        d: d.view(),
        b: b.view(),
    };
    call(host, device);
}

/// The bits that operands of the host give.
fn on_the_device<T: Element>() {
    let Some(context) = cuda() else { return };
    let device = context.device();
    let zeros = |shape| DeviceTensor::<T, 2>::zeros(device, shape).unwrap();
    let sums = |shape| DeviceTensor::<T::Accumulator, 2>::zeros(device, shape).unwrap();
    let n = 7;
    with_operands::<T>(context, n, |host, there| {
        let ([z, x, g], blocks) = (host.inputs, host.blocks());
        let layer = Interaction::blocks(&blocks).unwrap().with_b(host.b).unwrap().with_context(context);
        let blocks = there.blocks();
        let on_device = Interaction::blocks(&blocks).unwrap().with_b(there.b).unwrap().with_context(context);
        let [z_there, x_there, g_there] = there.inputs;
        let mut y = zeros([n, R]);
        on_device.forward_into(z_there, x_there, y.view_mut()).unwrap();
        let expected = layer.forward(z, x).unwrap();
        assert_same(y.to_tensor().unwrap().as_slice(), expected.as_slice(), "y");
        on_device.attend_into(z_there, x_there, y.view_mut()).unwrap();
        assert_same(y.to_tensor().unwrap().as_slice(), layer.attend(z, x).unwrap().as_slice(), "attention");

        for attention in [false, true] {
            let (mut dz, mut dx, mut da, mut ds) = (sums([n, R]), sums([n, R]), sums([R, RANKS[0]]), sums([R, 1]));
            let mut core = DeviceTensor::<T::Accumulator, 3>::zeros(device, RANKS).unwrap();
            let mut d = DeviceTensor::<T::Accumulator, 1>::zeros(device, [R]).unwrap();
            let mut of_blocks = [
                WantedBlock { diagonal: Some(Gradient::write(d.view_mut())), ..WantedBlock::default() },
                WantedBlock {
                    core: Some(Gradient::write(core.view_mut())),
                    a: Some(Gradient::add(da.view_mut())),
                    ..WantedBlock::default()
                },
                WantedBlock { b: Some(Gradient::write(ds.view_mut())), ..WantedBlock::default() },
            ];
            let wanted = Wanted {
                z: Some(Gradient::write(dz.view_mut())),
                x: Some(Gradient::add(dx.view_mut())),
                blocks: &mut of_blocks,
                ..Wanted::default()
            };
            let expected = if attention {
                on_device.attend_backward_into(z_there, x_there, g_there, wanted).unwrap();
                layer.attend_backward(z, x, g).unwrap()
            } else {
                on_device.backward_into(z_there, x_there, g_there, wanted).unwrap();
                layer.backward(z, x, g).unwrap()
            };
            let what = |name: &str| format!("{name}, attention {attention}");
            assert_same(dz.to_tensor().unwrap().as_slice(), expected.z.as_slice(), &what("dz"));
            assert_same(dx.to_tensor().unwrap().as_slice(), expected.x.as_slice(), &what("dx"));
            let [gate, tucker, scale] = &expected.blocks[..] else { panic!("three blocks") };
            let same = |found: &[T::Accumulator], expected: Option<&[T::Accumulator]>, name: &str| {
                assert_same(found, expected.unwrap(), &what(name));
            };
            same(d.to_tensor().unwrap().as_slice(), gate.diagonal.as_ref().map(|to| to.as_slice()), "dd");
            same(core.to_tensor().unwrap().as_slice(), tucker.core.as_ref().map(|to| to.as_slice()), "dG");
            same(da.to_tensor().unwrap().as_slice(), tucker.a.as_ref().map(|to| to.as_slice()), "dA");
            same(ds.to_tensor().unwrap().as_slice(), scale.b.as_ref().map(|to| to.as_slice()), "ds");
        }
    });
}

/// Rows of several blocks of threads, long rows of several tiles, groups of several parts; vectors and what is left of them.
fn gates<T: Element>() {
    let Some(context) = cuda() else { return };
    let host = Context::new(Device::Cpu).unwrap();
    for (groups, each, r) in
        [(300, 1, 17), (20, 1, 40), (3, 1, 1100), (1, 2, 2052), (2, 70, 40), (1, 500, 3), (5, 4, 1)]
    {
        let (n, mut random) = (groups * each, Random(r as u64));
        let mut matrix = |rows: usize| random.integers::<T>(rows * r, 2);
        let (z, x, g, d, b) = (matrix(groups), matrix(n), matrix(n), matrix(1), matrix(1));
        let blocks = [Block::diagonal(View::vector(&d))];
        let layer = Interaction::blocks(&blocks).unwrap().with_b(View::vector(&b)).unwrap();
        let (z, x) = (View::new(&z, [groups, r]).unwrap(), View::new(&x, [groups, each, r]).unwrap());
        let g = View::new(&g, [groups, each, r]).unwrap();
        let [ours, expected] = [context, host].map(|context| {
            let layer = layer.with_context(context);
            (layer.forward_shared(z, x).unwrap(), layer.backward_shared(z, x, g).unwrap())
        });
        let what = |name: &str| format!("{name} {groups} × {each} × {r} {}", T::DTYPE);
        same(ours.0.as_slice(), expected.0.as_slice(), &what("y"));
        let (ours, expected) = (ours.1, expected.1);
        same(ours.z.as_slice(), expected.z.as_slice(), &what("dz"));
        same(ours.x.as_slice(), expected.x.as_slice(), &what("dx"));
        same(ours.b.as_ref().unwrap().as_slice(), expected.b.as_ref().unwrap().as_slice(), &what("db"));
        let [ours, expected] = [ours, expected].map(|mut found| found.blocks.remove(0).diagonal.unwrap());
        same(ours.as_slice(), expected.as_slice(), &what("dd"));
    }
}

/// The same, with zeros of either sign as one.
#[track_caller]
fn same<T: Element>(ours: &[T], expected: &[T], what: &str) {
    let [ours, expected] =
        [ours, expected].map(|all| all.iter().map(|value| T::from_f64(value.to_f64() + 0.0)).collect::<Vec<_>>());
    assert_same(&ours, &expected, what);
}

for_each_dtype!(on_the_device, gates);

/// Every operand of a block is looked at.
#[test]
fn places() {
    let Some(context) = cuda() else { return };
    let device = context.device();
    with_operands::<f32>(context, 2, |host, there| {
        let [z, x, g] = there.inputs;
        let mut y = DeviceTensor::<f32, 2>::zeros(device, [2, R]).unwrap();
        let misplaced = |operand| Error::Place { operand, expected: device, actual: Device::Cpu };
        let [a, b, c] = there.factors;
        fn with<'a>([a, b, c]: [View<'a, f32, 2>; 3], core: View<'a, f32, 3>) -> Block<'a, f32> {
            Block::tucker(core).with_a(a).unwrap().with_b(b).unwrap().with_c(c).unwrap()
        }
        for (block, operand) in [
            (with([a, b, c], host.core), "core"),
            (with([host.factors[0], b, c], there.core), "a"),
            (with([a, host.factors[1], c], there.core), "b of block"),
            (with([a, b, host.factors[2]], there.core), "c"),
            (Block::diagonal(host.d), "diagonal"),
        ] {
            let blocks = [block];
            let layer = Interaction::blocks(&blocks).unwrap().with_context(context);
            assert_eq!(layer.forward_into(z, x, y.view_mut()), Err(misplaced(operand)));
        }
        // A destination.
        let blocks = there.blocks();
        let layer = Interaction::blocks(&blocks).unwrap().with_context(context);
        let (mut own, mut core) = ([0.0; R], DeviceTensor::<f32, 3>::zeros(device, RANKS).unwrap());
        let mut of_blocks = [
            WantedBlock {
                diagonal: Some(Gradient::write(ViewMut::strided(&mut own, 0, [R], [1]).unwrap())),
                ..WantedBlock::default()
            },
            WantedBlock { core: Some(Gradient::write(core.view_mut())), ..WantedBlock::default() },
            WantedBlock::default(),
        ];
        let wanted = Wanted { blocks: &mut of_blocks, ..Wanted::default() };
        assert_eq!(layer.backward_into(z, x, g, wanted), Err(misplaced("ddiagonal")));
        // What is not computed there.
        let cube = DeviceTensor::<f32, 3>::zeros(device, [1, 2, R]).unwrap();
        let mut pairs = DeviceTensor::<f32, 3>::zeros(device, [1, R, R]).unwrap();
        let error = layer.generate_into(z, pairs.view_mut(), y.view_mut());
        assert!(matches!(error, Err(Error::Shape { .. } | Error::Unsupported { .. })), "{error:?}");
        let mut all = DeviceTensor::<f32, 4>::zeros(device, [1, 2, 2, layer.outputs()]).unwrap();
        let error = layer.forward_pairs_into(cube.view(), cube.view(), all.view_mut()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    });
}

/// Nothing is left of gradients of blocks that nothing is added up of.
#[test]
fn empty_sums_are_zeros() {
    let Some(context) = cuda() else { return };
    with_operands::<f32>(context, 1, |_, there| {
        let blocks = there.blocks();
        let layer = Interaction::blocks(&blocks).unwrap().with_context(context);
        let none = DeviceTensor::<f32, 2>::zeros(context.device(), [0, R]).unwrap();
        let mut core = DeviceTensor::from_view(context.device(), there_core(&[7.0; 60])).unwrap();
        let mut of_blocks = [
            WantedBlock::default(),
            WantedBlock { core: Some(Gradient::write(core.view_mut())), ..WantedBlock::default() },
            WantedBlock::default(),
        ];
        let wanted = Wanted { blocks: &mut of_blocks, ..Wanted::default() };
        layer.backward_into(none.view(), none.view(), none.view(), wanted).unwrap();
        assert_eq!(core.to_tensor().unwrap().as_slice(), [0.0; 60]);
    });
}

fn there_core(values: &[f32]) -> View<'_, f32, 3> {
    View::new(values, RANKS).unwrap()
}

/// The launches of each form.
#[test]
fn launches() {
    let Some(context) = cuda() else { return };
    with_operands::<f32>(context, 2, |host, _| {
        let kernels = |blocks: &[Block<'_, f32>]| -> Vec<String> {
            let layer = Interaction::blocks(blocks).unwrap().with_b(host.b).unwrap().with_context(context);
            let plan = layer.plan(100).unwrap();
            let family = |name: &str| name.split('_').next().unwrap_or_default().to_owned();
            plan.launches.iter().map(|launch| family(launch.kernel)).collect()
        };
        let [gate, tucker, scale] = host.blocks();
        assert_eq!(kernels(&[gate]), ["gate"]);
        assert_eq!(kernels(&[tucker]), ["contract"; 3]);
        assert_eq!(kernels(&[scale]), ["contract", "gate"]);
        assert_eq!(kernels(&[gate, tucker]), ["contract", "contract", "contract", "gate"]);
    });
}
