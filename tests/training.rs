//! Training works: a few epochs of Adam on real data, with the code and the data of the examples, reach a fixed loss and a
//! fixed quality, and the same bits on any number of threads.

#[path = "../examples/common/mod.rs"]
mod examples;

use std::path::Path;

use examples::data::{Digits, FOLDER, Graph};
use examples::links::{self, Cp, Model, Rescal};
use examples::{Adam, Parameter, Random, cross_entropy};
use trilinear::{Context, Interaction, Result, Tensor, View, Wanted};

fn context(threads: usize) -> Context {
    Context::from_env().unwrap().with_threads(threads).unwrap()
}

/// The losses of some epochs on Nations, and the filtered hits@10 after them.
fn nations(
    epochs: usize,
    mut adam: Adam,
    model: impl FnOnce(&Graph, &mut Random) -> Box<dyn Model>,
) -> Result<(Vec<f64>, f64)> {
    let graph = Graph::load(Path::new(FOLDER), "nations").unwrap();
    let (mut random, triples) = (Random(1), graph.queries(&graph.train));
    let mut model = model(&graph, &mut random);
    let mut epoch = || links::epoch(model.as_mut(), &graph, &triples, 2, &mut adam, &mut random);
    let losses = (0..epochs).map(|_| epoch()).collect::<Result<_>>()?;
    Ok((losses, links::evaluate(model.as_ref(), &graph, &graph.test)?.hits))
}

fn learns(losses: &[f64], hits: f64, loss_below: f64, hits_above: f64) {
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(last < loss_below && last < first, "the loss went from {first} to {last}");
    assert!(hits > hits_above, "hits@10 {hits}");
}

#[test]
fn rescal_learns_nations() {
    let run = |threads| {
        nations(15, Adam::new(0.01, 0.3), |graph, random| Box::new(Rescal::new(graph, 16, context(threads), random)))
    };
    let (losses, hits) = run(1).unwrap();
    learns(&losses, hits, 1.8, 0.93);
    assert_eq!((losses, hits), run(2).unwrap());
}

#[test]
fn cp_learns_nations() {
    let run = |threads| {
        nations(15, Adam::new(0.02, 0.3), |graph, random| Box::new(Cp::new(graph, 32, context(threads), random)))
    };
    let (losses, hits) = run(1).unwrap();
    learns(&losses, hits, 2.0, 0.95);
    assert_eq!((losses, hits), run(2).unwrap());
}

/// Losses of some epochs of zᵀWx + Vx + b on the first 1000 digits, z and x the halves of an image, and the share of the other
/// images that are classified right.
fn digits(epochs: usize, threads: usize) -> Result<(Vec<f64>, f64)> {
    const CLASSES: usize = 10;
    let Digits { pixels, classes } = Digits::load(Path::new(FOLDER)).unwrap();
    let images = View::new(&pixels, [classes.len(), 64])?;
    let (z, x) = (images.slice(1, 0..32)?, images.slice(1, 32..64)?);

    let mut random = Random(1);
    let mut w = Parameter::new([CLASSES, 32, 32], 0.01, &mut random);
    let mut v = Parameter::new([CLASSES, 32], 0.01, &mut random);
    let mut b = Parameter::new([CLASSES], 0.0, &mut random);
    let (mut adam, mut losses) = (Adam::new(0.01, 0.0), Vec::new());
    for _ in 0..epochs {
        let mut loss = 0.0;
        for start in (0..1000).step_by(50) {
            let (z, x) = (z.slice(0, start..start + 50)?, x.slice(0, start..start + 50)?);
            let ((w_now, dw), (v_now, dv), (b_now, db)) = (w.split()?, v.split()?, b.split()?);
            let layer = Interaction::dense(w_now)?.with_v(v_now)?.with_b(b_now)?.with_context(context(threads));
            let mut g = layer.forward(z, x)?.into_vec();
            for (row, &class) in g.chunks_mut(CLASSES).zip(&classes[start..]) {
                loss += cross_entropy(row, &[class], 1.0 / 50.0) / 1000.0;
            }
            let wanted = Wanted { w: Some(dw), v: Some(dv), b: Some(db), ..Wanted::default() };
            layer.backward_into(z, x, View::new(&g, [50, CLASSES])?, wanted)?;
            adam.next();
            w.step(&adam);
            v.step(&adam);
            b.step(&adam);
        }
        losses.push(loss);
    }

    let (z, x) = (z.slice(0, 1000..classes.len())?, x.slice(0, 1000..classes.len())?);
    let layer = Interaction::dense(w.view()?)?.with_v(v.view()?)?.with_b(b.view()?)?;
    let logits: Tensor<f32, 2> = layer.forward(z, x)?;
    let best = |row: &[f32]| (0..CLASSES).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let rows = logits.as_slice().chunks(CLASSES).zip(&classes[1000..]);
    let right = rows.filter(|(row, class)| best(row) == Some(**class)).count();
    Ok((losses, right as f64 / (classes.len() - 1000) as f64))
}

#[test]
fn interaction_learns_digits() {
    let (losses, accuracy) = digits(10, 1).unwrap();
    assert!(losses[9] < 0.1 && losses[9] < losses[0], "{losses:?}");
    assert!(accuracy > 0.92, "{accuracy}");
    assert_eq!((losses, accuracy), digits(10, 2).unwrap());
}

#[test]
fn bad_files_are_errors() {
    let folder = std::env::temp_dir().join(format!("trilinear-training-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (name, text, message) in [
        ("umls", "", "umls.tsv: no line of entities"),
        ("umls", "entities\ta\nnames", "umls.tsv: no line of relations"),
        ("umls", "entities\ta\tb\nrelations\tr\ntrain\t0\t0\t2", "umls.tsv, line 3: not a head, a relation and a tail"),
        ("umls", "entities\ta\nrelations\tr\ntrain\t0\t0", "umls.tsv, line 3: not a head, a relation and a tail"),
        ("umls", "entities\ta\nrelations\tr\ntrial\t0\t0\t0", "umls.tsv, line 3: not train, valid or test"),
    ] {
        std::fs::write(folder.join(format!("{name}.tsv")), text).unwrap();
        let error = Graph::load(&folder, name).err().unwrap().to_string();
        assert!(error.ends_with(message), "{error}");
    }
    for (text, message) in
        [("0123", "no space"), ("0123 4", "not 64 pixels"), (&("0".repeat(64) + " x"), "no class in 0..10")]
    {
        std::fs::write(folder.join("digits.txt"), text).unwrap();
        let error = Digits::load(&folder).err().unwrap().to_string();
        assert!(error.ends_with(&format!("digits.txt, line 1: {message}")), "{error}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(Graph::load(&folder, "umls").is_err());
}
