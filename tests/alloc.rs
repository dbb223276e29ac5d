//! What is allocated: nothing once a shape has been seen, and never an intermediate that grows with the batch.
//! One test only: the counters are the process's.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::case::{Case, Destinations, Form, Operation, Options, Part, Set};
use common::pairs::Pairs;
use common::{Cp, Dense, Random, levels};
use trilinear::{
    Algorithm, Block, Context, Device, Element, Gradient, Grouped, GroupedWanted, Interaction, Mahalanobis, Precision,
    Reduction, Saved, Tangents, Tensor, View, ViewMut, Wanted, WantedBlock, WantedFactors, bf16,
};

/// The system's allocator, counted.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    CALLS.fetch_add(1, Relaxed);
    PEAK.fetch_max(BYTES.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: all calls go to the system's allocator; counting touches no memory of theirs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's contract, here and below.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Scratch of a thread may take this much, and no more.
const MOST: usize = 8 << 20;

/// Allocations of `work` when it is repeated: those of every repetition, for the test harness's own thread may allocate
/// during one.
fn repeated(mut work: impl FnMut()) -> usize {
    work();
    let once = |_| {
        let before = CALLS.load(Relaxed);
        work();
        CALLS.load(Relaxed) - before
    };
    (0..3).map(once).min().unwrap_or(0)
}

/// Calls of every kind with one layer, into buffers that exist.
fn check_repeated<T: Element>(layer: Interaction<'_, T>, data: &Dense<T>, what: &str) {
    let [n, _, j, k] = data.sizes;
    let mut y = Tensor::zeros([n, k]).unwrap();
    let calls = repeated(|| layer.forward_into(data.z(), data.x(), y.view_mut()).unwrap());
    assert_eq!(calls, 0, "forward_into allocated: {what}");
    let groups = n.div_ceil(4);
    let z = data.z().slice(0, 0..groups).unwrap();
    let x = View::new(&data.x, [1, n, j]).unwrap();
    let mut shared = Tensor::zeros([1, n, k]).unwrap();
    let z_one = data.z().slice(0, 0..1).unwrap();
    let calls = repeated(|| layer.forward_shared_into(z_one, x, shared.view_mut()).unwrap());
    assert_eq!(calls, 0, "forward_shared_into allocated: {what}");
    let (mut weights, mut bias) = (Tensor::zeros([groups, k, j]).unwrap(), Tensor::zeros([groups, k]).unwrap());
    let calls = repeated(|| layer.generate_into(z, weights.view_mut(), bias.view_mut()).unwrap());
    assert_eq!(calls, 0, "generate_into allocated: {what}");
    // Making a layer, planning and preparing's `layer()` are free as well.
    let prepared = layer.prepare().unwrap();
    let calls = repeated(|| {
        let layer = prepared.layer().with_b(data.b()).unwrap();
        layer.forward_into(data.z(), data.x(), y.view_mut()).unwrap();
        let _ = layer.plan(n);
    });
    assert_eq!(calls, 0, "a prepared layer allocated: {what}");
}

fn all_repeated<T: Element>(threads: usize) {
    let base = Context::new(Device::Cpu).unwrap().with_threads(threads).unwrap();
    for &level in levels() {
        for sizes in
            [[1, 16, 16, 16], [3, 80, 90, 100], [4, 300, 200, 2], [7, 20, 30, 40], [100, 40, 41, 42], [600, 9, 31, 16]]
        {
            let data = Dense::<T>::uniform(sizes, 1);
            for algorithm in [None, Some(Algorithm::Stream), Some(Algorithm::FusedDot), Some(Algorithm::KhatriRao)] {
                if algorithm == Some(Algorithm::Stream) && sizes[0] > 4 {
                    continue;
                }
                let context = base.with_simd(level).unwrap();
                let context = algorithm.map_or(context, |algorithm| context.with_algorithm(algorithm));
                let what = format!("{} {sizes:?} {level} {algorithm:?}, {threads} threads", T::DTYPE);
                warm_up(|| {
                    let _ = data.layer().with_context(context).forward(data.z(), data.x());
                    let _ = data.layer().with_context(context).generate(data.z());
                });
                check_repeated(data.layer().with_context(context), &data, &what);
                let w = View::new(&data.w, [sizes[3], sizes[2], sizes[1]]).unwrap().permute([0, 2, 1]).unwrap();
                let transposed = Interaction::dense(w).unwrap().with_context(context);
                warm_up(|| drop(transposed.forward(data.z(), data.x())));
                check_repeated(transposed, &data, &format!("{what} transposed"));
            }
        }
        for sizes in [[1, 16, 16, 16, 8], [4, 300, 400, 500, 600], [70, 90, 80, 70, 60]] {
            let data = Cp::<T>::uniform(sizes, 1);
            let layer = data.layer().with_context(base.with_simd(level).unwrap());
            warm_up(|| {
                let _ = layer.forward(data.rest.z(), data.rest.x());
                let _ = layer.generate(data.rest.z());
            });
            let what = format!("{} {sizes:?} {level} CP, {threads} threads", T::DTYPE);
            check_repeated(layer, &data.rest, &what);
        }
    }
}

/// Lets every thread of the pool meet the shape; which of them takes a task of a call is left to chance.
fn warm_up(work: impl Fn() + Sync) {
    for _ in 0..3 {
        if rayon::current_thread_index().is_some() {
            rayon::broadcast(|_| work());
        } else {
            work();
        }
    }
}

/// Bytes in use at the highest point of `work`, beyond those before it.
fn peak(work: impl FnOnce()) -> usize {
    let before = BYTES.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    PEAK.load(Relaxed) - before
}

/// First calls of a fresh thread, whose scratch is yet to be allocated.
fn large_batches() {
    let serial = Context::new(Device::Cpu).unwrap().with_threads(1).unwrap();
    let [n, i, j, k] = [20_000, 64, 64, 16];
    let data = Dense::<f32>::uniform([n, i, j, k], 1);
    let w = View::new(&data.w, [i, j, k]).unwrap().permute([2, 0, 1]).unwrap();
    let transposed = Interaction::dense(w).unwrap();
    let cp = Cp::<f32>::uniform([n, i, j, k, 64], 1);
    let mut y = Tensor::zeros([n, k]).unwrap();
    let algorithms = [None, Some(Algorithm::FusedDot), Some(Algorithm::KhatriRao)];
    for (name, layer) in [("dense", data.layer()), ("transposed", transposed), ("CP", cp.layer())] {
        for algorithm in if name == "CP" { &algorithms[..1] } else { &algorithms } {
            let context = algorithm.map_or(serial, |algorithm| serial.with_algorithm(algorithm));
            let layer = layer.with_context(context);
            let plan = layer.plan(n).unwrap();
            let bytes = on_a_fresh_thread(|| peak(|| layer.forward_into(data.z(), data.x(), y.view_mut()).unwrap()));
            assert!(bytes <= MOST, "{name} {algorithm:?}: {bytes} bytes");
            assert!(bytes <= plan.scratch && plan.scratch <= MOST, "{name} {algorithm:?}: {bytes} bytes, {plan}");
        }
    }
    // Shared context: neither W′ of all groups, nor z for all rows.
    let [groups, rows] = [400, 50];
    let z = data.z().slice(0, 0..groups).unwrap();
    let x = View::new(&data.x, [groups, rows, j]).unwrap();
    let mut y = Tensor::zeros([groups, rows, k]).unwrap();
    for (name, layer) in [("dense", data.layer()), ("CP", cp.layer())] {
        let layer = layer.with_context(serial);
        let bytes = on_a_fresh_thread(|| peak(|| layer.forward_shared_into(z, x, y.view_mut()).unwrap()));
        assert!(bytes <= MOST, "{name}, shared: {bytes} bytes");
    }
    // Two threads: twice that.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let mut y = Tensor::zeros([n, k]).unwrap();
    let parallel = data.layer().with_context(Context::new(Device::Cpu).unwrap());
    let bytes = pool.install(|| {
        assert_eq!(parallel.plan(n).unwrap().threads, 2);
        peak(|| parallel.forward_into(data.z(), data.x(), y.view_mut()).unwrap())
    });
    assert!(bytes <= 2 * MOST, "two threads: {bytes} bytes");
}

/// Gradients and tangents into memory that exists, of layers of every form.
fn gradients_repeated<T: Element>(threads: usize) {
    let base = Context::new(Device::Cpu).unwrap().with_threads(threads).unwrap();
    let sizes = [[1, 1, 16, 16, 16, 8], [70, 1, 40, 40, 12, 30], [7, 90, 20, 30, 40, 9], [600, 1, 9, 31, 16, 70]];
    for &level in levels() {
        let context = base.with_simd(level).unwrap();
        for (sizes, form) in sizes.into_iter().flat_map(|sizes| Form::ALL.map(|form| (sizes, form))) {
            let case = Case::<T>::uniform(form, sizes, 1);
            let what = format!("{form:?} {sizes:?} {} {level}, {threads} threads", T::DTYPE);
            let plain = sizes[1] == 1;
            let case = if plain && sizes[2] == sizes[3] { case.tied() } else { case };
            let laid = case.laid(0);
            let mut operations = vec![Operation::Shared, Operation::Generate];
            operations.extend(plain.then_some(Operation::Plain));
            for operation in operations {
                // All of them; the inputs' and the weights' alone, which may take other ways.
                let inputs = Set::of(&[Part::Z, Part::X]);
                for wanted in [Set::ALL, inputs, Set(!inputs.0), Set::of(&[Part::Tied])] {
                    let options = Options { wanted, add: Set::of(&[Part::W]), ..Options::new(context) };
                    warm_up(|| {
                        laid.run(operation, context, &mut Destinations::new(&case, operation, &options), None).unwrap();
                    });
                    let mut to = Destinations::new(&case, operation, &options);
                    let calls = repeated(|| laid.run(operation, context, &mut to, None).unwrap());
                    assert_eq!(calls, 0, "gradients allocated: {operation:?} {wanted:?} {what}");
                }
            }
            if plain {
                saved_and_tangents_repeated(&case, context, &what);
            }
        }
    }
}

/// Sums of blocks, distances and attention, into buffers that exist.
fn blocks_repeated<T: Element>(threads: usize) {
    let context = Context::new(Device::Cpu).unwrap().with_threads(threads).unwrap();
    let [n, k, r] = [600, 24, 10];
    let mut random = Random(1);
    let (d, core, factor) = (random.uniform::<T>(k), random.uniform::<T>(r * r * r), random.uniform::<T>(k * r));
    let (square, z, x) = (random.uniform::<T>(k * k), random.uniform::<T>(n * k), random.uniform::<T>(n * k));
    let factor = View::new(&factor, [k, r]).unwrap();
    let square = View::new(&square, [k, k]).unwrap();
    let diagonal = Block::diagonal(View::vector(&d));
    let generated = Block::identity(k).with_b(square).unwrap();
    let tucker = Block::tucker(View::new(&core, [r; 3]).unwrap()).with_a(factor).unwrap();
    let tucker = tucker.with_b(factor).unwrap().with_c(factor).unwrap();
    let (z, x) = (View::new(&z, [n, k]).unwrap(), View::new(&x, [n, k]).unwrap());
    let (groups, shared_z) = (3, z.slice(0, 0..3).unwrap());
    let shared_x = View::new(x.as_slice().unwrap(), [groups, n / groups, k]).unwrap();
    let all = x.as_slice().unwrap();
    let [pair_z, pair_x] = [5, 7].map(|rows| View::new(&all[..2 * rows * k], [2, rows, k]).unwrap());
    let (pair_g, of_weights) = (View::new(&all[..70 * k], [2, 5, 7, k]).unwrap(), View::new(all, [25, k, k]).unwrap());
    let of_weights = of_weights.slice(0, 0..groups).unwrap();
    let metrics = [Precision::Full(square), Precision::Factor(factor), Precision::Diagonal(View::vector(&d))];
    let forms =
        [(&[diagonal][..], false), (&[generated], false), (&[tucker], true), (&[diagonal, tucker, generated], true)];
    for (blocks, has_tucker) in forms {
        let layer = Interaction::blocks(blocks).unwrap().with_v(square).unwrap().with_context(context);
        let (mut y, mut shared) = (Tensor::zeros([n, k]).unwrap(), Tensor::zeros([groups, n / groups, k]).unwrap());
        let [mut dz, mut dx] = [(); 2].map(|()| Tensor::<T::Accumulator, 2>::zeros([n, k]).unwrap());
        let [mut da, mut db] = [(); 2].map(|()| Tensor::<T::Accumulator, 2>::zeros([k, r]).unwrap());
        let mut dcore = Tensor::<T::Accumulator, 3>::zeros([r; 3]).unwrap();
        let (mut pairs, mut bias) = (Tensor::zeros([2, 5, 7, k]).unwrap(), Tensor::zeros([groups, k]).unwrap());
        let mut weights = Tensor::zeros([groups, k, k]).unwrap();
        let [mut pair_dz, mut pair_dx] = [5, 7].map(|rows| Tensor::<T::Accumulator, 3>::zeros([2, rows, k]).unwrap());
        let mut call = || {
            layer.forward_pairs_into(pair_z, pair_x, pairs.view_mut()).unwrap();
            layer.generate_into(shared_z, weights.view_mut(), bias.view_mut()).unwrap();
            for generated in [false, true] {
                let mut wanted: [WantedBlock<'_, T>; 3] = std::array::from_fn(|_| WantedBlock::default());
                if has_tucker {
                    wanted[blocks.len() / 2].c = Some(Gradient::write(db.view_mut()));
                    wanted[blocks.len() / 2].core = Some(Gradient::write(dcore.view_mut()));
                }
                let blocks = &mut wanted[..blocks.len()];
                if generated {
                    let wanted = Wanted { z: None, blocks, ..Wanted::default() };
                    layer.backward_generate_into(shared_z, of_weights, shared_z, wanted).unwrap();
                    continue;
                }
                let (dz, dx) = (Gradient::write(pair_dz.view_mut()), Gradient::write(pair_dx.view_mut()));
                let wanted = Wanted { z: Some(dz), x: Some(dx), blocks, ..Wanted::default() };
                layer.backward_pairs_into(pair_z, pair_x, pair_g, wanted).unwrap();
            }
            layer.forward_into(z, x, y.view_mut()).unwrap();
            layer.forward_shared_into(shared_z, shared_x, shared.view_mut()).unwrap();
            layer.attend_into(z, x, y.view_mut()).unwrap();
            let mut wanted: [WantedBlock<'_, T>; 3] = std::array::from_fn(|_| WantedBlock::default());
            let at = blocks.len() / 2;
            if has_tucker {
                wanted[at].a = Some(Gradient::write(da.view_mut()));
                wanted[at].b = Some(Gradient::write(db.view_mut()));
                wanted[at].core = Some(Gradient::write(dcore.view_mut()));
            }
            let (dz, dx) = (Gradient::write(dz.view_mut()), Gradient::write(dx.view_mut()));
            let blocks = &mut wanted[..blocks.len()];
            let wanted = Wanted { z: Some(dz), x: Some(dx), blocks, ..Wanted::default() };
            layer.backward_into(z, x, x, wanted).unwrap();
        };
        call();
        assert_eq!(repeated(call), 0, "{} blocks allocated: {}, {threads} threads", blocks.len(), T::DTYPE);
    }
    for precision in metrics {
        let metric = Mahalanobis::new(precision).unwrap().with_context(context);
        let mut y = Tensor::<T, 1>::zeros([n]).unwrap();
        let calls = repeated(|| metric.squared_into(z, x, y.view_mut()).unwrap());
        assert_eq!(calls, 0, "distances allocated: {precision:?} {}, {threads} threads", T::DTYPE);
    }
}

fn saved_and_tangents_repeated<T: Element>(case: &Case<T>, context: Context, what: &str) {
    let laid = case.laid(0);
    let layer = laid.layer().with_context(context);
    let (z, x) = (laid.z.view(), laid.plain_x());
    let (n, k) = (case.sizes[0], case.sizes[4]);
    let options = Options::new(context);
    warm_up(|| {
        let mut saved = Saved::default();
        layer.forward_saving(z, x, &mut saved).unwrap();
        let mut to = Destinations::new(case, Operation::Plain, &options);
        laid.run(Operation::Plain, context, &mut to, Some(&saved)).unwrap();
    });
    let (mut saved, mut y) = (Saved::default(), Tensor::zeros([n, k]).unwrap());
    let mut to = Destinations::new(case, Operation::Plain, &options);
    let calls = repeated(|| {
        layer.forward_saving_into(z, x, y.view_mut(), &mut saved).unwrap();
        laid.run(Operation::Plain, context, &mut to, Some(&saved)).unwrap();
    });
    assert_eq!(calls, 0, "saved activations allocated: {what}");
    let moved = tangents(&laid);
    warm_up(|| drop(layer.tangent(z, x, &moved).unwrap()));
    let mut to = Tensor::zeros([n, k]).unwrap();
    let calls = repeated(|| layer.tangent_into(z, x, &moved, Gradient::write(to.view_mut())).unwrap());
    assert_eq!(calls, 0, "tangent_into allocated: {what}");
}

/// Every operand moves, along itself.
fn tangents<'a, T: Element>(laid: &'a common::case::Laid<'_, T>) -> Tangents<'a, T> {
    let cp = laid.case.form.is_cp();
    let [a, b, c] = laid.factors.each_ref().map(|factor| cp.then(|| factor.view()));
    Tangents {
        z: Some(laid.z.view()),
        x: Some(laid.plain_x()),
        w: (laid.case.form == Form::Dense).then(|| laid.w.view()),
        u: Some(laid.u.view()),
        v: Some(laid.v.view()),
        b: Some(laid.b.view()),
        cp_a: a,
        cp_b: b,
        cp_c: c,
        lambda: (laid.case.form == Form::CpLambda).then(|| laid.lambda.view()),
    }
}

/// Scratch of gradients and tangents on a fresh thread: a few MiB, and no more for four times the batch. (Blocks are cut
/// evenly, so that it varies a little.)
fn gradients_of_large_batches() {
    let serial = Context::new(Device::Cpu).unwrap().with_threads(1).unwrap();
    let [i, j, k, r] = [64, 48, 16, 64];
    let growths = [
        (Operation::Plain, [[2000, 1], [8000, 1]]),
        (Operation::Shared, [[500, 4], [2000, 4]]),
        (Operation::Shared, [[4, 500], [4, 2000]]),
        (Operation::Generate, [[500, 1], [2000, 1]]),
    ];
    for (operation, batches) in growths {
        for form in Form::ALL {
            let inputs = Set::of(&[Part::Z, Part::X]);
            for wanted in [Set::ALL, inputs, Set(!inputs.0)] {
                let options = Options { wanted, ..Options::new(serial) };
                let bytes = batches.map(|[groups, rows]| {
                    let case = Case::<f32>::uniform(form, [groups, rows, i, j, k, r], 1);
                    let laid = case.laid(0);
                    let mut to = Destinations::new(&case, operation, &options);
                    on_a_fresh_thread(|| peak(|| laid.run(operation, serial, &mut to, None).unwrap()))
                });
                assert_bytes(bytes, &format!("{operation:?} {batches:?} {form:?} {wanted:?}"));
            }
        }
    }
    for form in Form::ALL {
        let bytes = [2000, 8000].map(|n| {
            let case = Case::<f32>::uniform(form, [n, 1, i, j, k, r], 1);
            let laid = case.laid(0);
            let (z, x, moved) = (laid.z.view(), laid.x.view(), tangents(&laid));
            let mut to = Tensor::zeros([n, k]).unwrap();
            let layer = laid.layer().with_context(serial);
            let mut call = || layer.tangent_into(z, x, &moved, Gradient::write(to.view_mut())).unwrap();
            on_a_fresh_thread(|| peak(&mut call))
        });
        assert_bytes(bytes, &format!("tangent, {form:?}"));
    }
}

fn assert_bytes([few, many]: [usize; 2], what: &str) {
    assert!(few.max(many) <= MOST, "{what}: {few} and {many} bytes");
    assert!(many <= few + few / 4, "{what}: {few} bytes for a batch, {many} for four times that");
}

/// All pairs and layers chosen row by row, forward and backward, into memory that exists.
fn pairs_repeated<T: Element>(threads: usize) {
    let base = Context::new(Device::Cpu).unwrap().with_threads(threads).unwrap();
    for (&level, form) in levels().iter().flat_map(|level| Form::ALL.map(|form| (level, form))) {
        let context = base.with_simd(level).unwrap();
        for sizes @ [_, s, t, i, j, k, r] in
            [[3, 20, 30, 40, 33, 5, 7], [1, 300, 40, 20, 30, 1, 9], [30, 3, 2, 9, 8, 12, 4]]
        {
            let what = format!("{form:?} {sizes:?} {} {level}, {threads} threads", T::DTYPE);
            let case = Pairs::<T>::uniform(form, sizes, 1);
            let laid = case.laid(0);
            let (layer, [z, x]) = (laid.layer().with_context(context), [laid.z.view(), laid.x.view()]);
            let core = case.clone().core();
            let core_laid = core.laid(0);
            let core = core_laid.layer().with_context(context);
            let g = laid.g.view();
            let g_of_one = View::strided(&case.g, 0, [s, t, k], [(t * k) as isize, k as isize, 1]).unwrap();
            warm_up(|| {
                drop(layer.forward_pairs(z, x).unwrap());
                drop(layer.backward_pairs(z, x, g).unwrap());
                drop(core.forward_pairs_reduced(z, x, Reduction::Mean).unwrap());
            });
            let mut y = Tensor::zeros(case.shape()).unwrap();
            let calls = repeated(|| layer.forward_pairs_into(z, x, y.view_mut()).unwrap());
            assert_eq!(calls, 0, "forward_pairs_into allocated: {what}");
            let mut y = Tensor::zeros([s, t, k]).unwrap();
            let calls = repeated(|| core.forward_pairs_reduced_into(z, x, Reduction::Mean, y.view_mut()).unwrap());
            assert_eq!(calls, 0, "forward_pairs_reduced_into allocated: {what}");
            let [mut dz, mut dx] = [z, x].map(|input| Tensor::zeros(input.shape()).unwrap());
            let (mut du, mut dw) = (vec![T::Accumulator::default(); k * i], Tensor::zeros([k, i, j]).unwrap());
            let mut dc = Tensor::zeros([j, r]).unwrap();
            let mut backward = |reduced: bool| {
                let cp = WantedFactors { c: Some(Gradient::write(dc.view_mut())), ..WantedFactors::default() };
                let mut wanted: Wanted<'_, T, 3, 3> = Wanted {
                    z: Some(Gradient::write(dz.view_mut())),
                    x: Some(Gradient::write(dx.view_mut())),
                    w: Some(Gradient::write(dw.view_mut())),
                    ..Wanted::default()
                };
                if form.is_cp() {
                    wanted.cp = cp;
                }
                if reduced {
                    return core.backward_pairs_reduced_into(z, x, Reduction::Mean, g_of_one, wanted).unwrap();
                }
                wanted.u = Some(Gradient::write(ViewMut::new(&mut du, [k, i]).unwrap()));
                layer.backward_pairs_into(z, x, g, wanted).unwrap();
            };
            assert_eq!(repeated(|| backward(false)), 0, "backward_pairs_into allocated: {what}");
            assert_eq!(repeated(|| backward(true)), 0, "backward_pairs_reduced_into allocated: {what}");
        }
        grouped_repeated::<T>(form, context);
    }
}

fn grouped_repeated<T: Element>(form: Form, context: Context) {
    let (n, sizes @ [_, _, i, j, k, _]) = (700, [1, 1, 9, 20, 5, 6]);
    let cases: Vec<_> = (0..3).map(|seed| Case::<T>::uniform(form, sizes, seed)).collect();
    let laid: Vec<_> = cases.iter().map(|case| case.laid(0)).collect();
    let layers: Vec<_> = laid.iter().map(|laid| laid.layer().with_context(context)).collect();
    let grouped = Grouped::new(&layers).unwrap();
    let index: Vec<usize> = (0..n).map(|row| row * 7 % 3).collect();
    let [z, x, g] = [i, j, k].map(|len| Tensor::<T, 2>::zeros([n, len]).unwrap());
    let (z, x, g) = (z.view(), x.view(), g.view());
    warm_up(|| {
        drop(grouped.forward(&index, z, x).unwrap());
        drop(grouped.backward(&index, z, x, g).unwrap());
    });
    let mut y = Tensor::zeros([n, k]).unwrap();
    let calls = repeated(|| grouped.forward_into(&index, z, x, y.view_mut()).unwrap());
    assert_eq!(calls, 0, "Grouped::forward_into allocated: {form:?} {}", T::DTYPE);
    let (mut dz, mut dx) = (Tensor::zeros([n, i]).unwrap(), Tensor::zeros([n, j]).unwrap());
    let mut du: Vec<_> = (0..3).map(|_| Tensor::zeros([k, i]).unwrap()).collect();
    let mut of_layers: Vec<Wanted<'_, T>> =
        du.iter_mut().map(|du| Wanted { u: Some(Gradient::write(du.view_mut())), ..Wanted::default() }).collect();
    let calls = repeated(|| {
        let wanted = GroupedWanted {
            z: Some(Gradient::write(dz.view_mut())),
            x: Some(Gradient::write(dx.view_mut())),
            layers: &mut of_layers,
        };
        grouped.backward_into(&index, z, x, g, wanted).unwrap();
    });
    assert_eq!(calls, 0, "Grouped::backward_into allocated: {form:?} {}", T::DTYPE);
}

/// Scratch of all pairs on a fresh thread: a few MiB, and no more for four times the problems, or rows of either side.
fn many_pairs() {
    let serial = Context::new(Device::Cpu).unwrap().with_threads(1).unwrap();
    let sizes = [[20, 40, 40], [80, 40, 40], [4, 400, 40], [4, 1600, 40], [4, 40, 400], [4, 40, 1600]];
    for form in Form::ALL {
        for sizes in sizes.chunks(2) {
            let bytes = |[p, s, t]: [usize; 3]| {
                let case = Pairs::<f32>::uniform(form, [p, s, t, 48, 64, 2, 32], 1);
                let laid = case.laid(0);
                let (layer, z, x) = (laid.layer().with_context(serial), laid.z.view(), laid.x.view());
                let mut y = Tensor::zeros(case.shape()).unwrap();
                let forward = on_a_fresh_thread(|| peak(|| layer.forward_pairs_into(z, x, y.view_mut()).unwrap()));
                let most = layer.plan_pairs(p, s, t).unwrap().scratch;
                assert!(forward <= most, "{form:?} {sizes:?}: {forward} bytes, {most} planned");
                let [mut dz, mut dx] = [z, x].map(|input| Tensor::zeros(input.shape()).unwrap());
                let backward = on_a_fresh_thread(|| {
                    peak(|| {
                        let wanted = Wanted {
                            z: Some(Gradient::write(dz.view_mut())),
                            x: Some(Gradient::write(dx.view_mut())),
                            ..Wanted::default()
                        };
                        layer.backward_pairs_into(z, x, laid.g.view(), wanted).unwrap();
                    })
                });
                [forward, backward]
            };
            let [few, many] = [bytes(sizes[0]), bytes(sizes[1])];
            for pass in 0..2 {
                assert_bytes([few[pass], many[pass]], &format!("all pairs {sizes:?} {form:?} pass {pass}"));
            }
        }
    }
}

fn on_a_fresh_thread(work: impl FnOnce() -> usize + Send) -> usize {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

#[test]
fn allocations() {
    large_batches();
    gradients_of_large_batches();
    all_repeated::<f32>(1);
    all_repeated::<bf16>(1);
    all_repeated::<f64>(1);
    gradients_repeated::<f32>(1);
    gradients_repeated::<bf16>(1);
    pairs_repeated::<f32>(1);
    pairs_repeated::<bf16>(1);
    many_pairs();
    blocks_repeated::<f32>(1);
    blocks_repeated::<bf16>(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        all_repeated::<f32>(2);
        all_repeated::<bf16>(2);
        gradients_repeated::<f32>(2);
        pairs_repeated::<f32>(2);
    });
}
