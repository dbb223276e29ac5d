//! Two models of a knowledge graph, whose score of a triple (h, r, t) is a multiplicative interaction: its training by
//! softmax over the tails, and its evaluation.

use trilinear::{Context, Gradient, Interaction, Result, Tensor, View, Wanted, WantedFactors};

use super::data::{Graph, Triple};
use super::{Adam, Parameter, Random, cross_entropy};

/// Queries (h, r, ?): heads, and for each query the position of its head among them and its relation.
#[derive(Default)]
pub struct Queries {
    pub heads: Vec<usize>,
    pub asked: Vec<(usize, usize)>,
}

/// The z and x of the layer that gives the scores, and the scores [queries, entities].
pub struct Forward {
    z: Tensor<f32, 2>,
    x: Tensor<f32, 2>,
    pub scores: Tensor<f32, 2>,
}

pub trait Model {
    fn forward(&self, queries: &Queries) -> Result<Forward>;
    /// Computes the gradients of all parameters from `g` [queries, entities], that in the scores.
    fn backward(&mut self, queries: &Queries, forward: &Forward, g: View<'_, f32, 2>) -> Result<()>;
    fn step(&mut self, adam: &Adam);
}

/// RESCAL (Nickel et al., *A Three-Way Model for Collective Learning on Multi-Relational Data*, ICML 2011):
/// score(h, r, t) = e\[h\]ᵀ W\[r\] e\[t\]. The relations are the outputs of a dense interaction of two entities.
///
/// A head generates a linear layer, W′ = e\[h\]ᵀW [relations, d], which is applied to all entities: no pair of entities is
/// ever formed. W is [relation, head, tail].
pub struct Rescal {
    entities: Parameter<2>,
    w: Parameter<3>,
    context: Context,
}

impl Rescal {
    pub fn new(graph: &Graph, d: usize, context: Context, random: &mut Random) -> Self {
        let deviation = (d as f32).powf(-0.5);
        let entities = Parameter::new([graph.entities, d], deviation, random);
        Rescal { entities, w: Parameter::new([graph.relations, d, d], deviation, random), context }
    }
}

impl Model for Rescal {
    fn forward(&self, queries: &Queries) -> Result<Forward> {
        let [relations, _, d] = self.w.shape;
        let embedding = |&head: &usize| &self.entities.value[head * d..][..d];
        let z =
            Tensor::from_vec(queries.heads.iter().flat_map(embedding).copied().collect(), [queries.heads.len(), d])?;
        let layer = Interaction::dense(self.w.view()?)?.with_context(self.context);
        let generated = layer.generate(z.view())?.weights;
        // Of what the heads generate, the rows that are asked for.
        let row = |&(head, relation): &(usize, usize)| &generated.as_slice()[(head * relations + relation) * d..][..d];
        let x = Tensor::from_vec(queries.asked.iter().flat_map(row).copied().collect(), [queries.asked.len(), d])?;
        let scorer = Interaction::linear(self.entities.shape[0], 0, d)?.with_v(self.entities.view()?)?;
        let scores = scorer.with_context(self.context).forward(View::new(&[], [queries.asked.len(), 0])?, x.view())?;
        Ok(Forward { z, x, scores })
    }

    fn backward(&mut self, queries: &Queries, forward: &Forward, g: View<'_, f32, 2>) -> Result<()> {
        let ([relations, _, d], heads) = (self.w.shape, queries.heads.len());
        let (entities, to_entities) = self.entities.split()?;
        let scorer = Interaction::linear(entities.shape()[0], 0, d)?.with_v(entities)?.with_context(self.context);
        let mut dx = Tensor::zeros(forward.x.shape())?;
        let wanted = Wanted { x: Some(Gradient::write(dx.view_mut())), v: Some(to_entities), ..Wanted::default() };
        scorer.backward_into(View::new(&[], [queries.asked.len(), 0])?, forward.x.view(), g, wanted)?;

        let mut generated = vec![0.0; heads * relations * d];
        for (&(head, relation), dx) in queries.asked.iter().zip(dx.as_slice().chunks(d)) {
            generated[(head * relations + relation) * d..][..d].copy_from_slice(dx);
        }
        let mut dz = Tensor::zeros([heads, d])?;
        let (w, to_w) = self.w.split()?;
        let wanted = Wanted { z: Some(Gradient::write(dz.view_mut())), w: Some(to_w), ..Wanted::default() };
        let weights = View::new(&generated, [heads, relations, d])?;
        let bias = View::strided(&[0.0], 0, [heads, relations], [0, 0])?; // nothing depends on the generated bias
        let layer = Interaction::dense(w)?.with_context(self.context);
        layer.backward_generate_into(forward.z.view(), weights, bias, wanted)?;
        for (&head, dz) in queries.heads.iter().zip(dz.as_slice().chunks(d)) {
            self.entities.gradient[head * d..][..d].iter_mut().zip(dz).for_each(|(sum, dz)| *sum += dz);
        }
        Ok(())
    }

    fn step(&mut self, adam: &Adam) {
        self.entities.step(adam);
        self.w.step(adam);
    }
}

/// The CP decomposition of the graph's tensor, tails × heads × relations (Lacroix et al., ICML 2018):
/// score(h, r, t) = Σ A\[t\] B\[h\] C\[r\]. The tails are the outputs of an interaction in CP form of a head and a relation,
/// which are 1 at their index and 0 elsewhere: the gradients of its factors are all there is to training.
pub struct Cp {
    tails: Parameter<2>,
    heads: Parameter<2>,
    relations: Parameter<2>,
    context: Context,
}

impl Cp {
    pub fn new(graph: &Graph, rank: usize, context: Context, random: &mut Random) -> Self {
        let deviation = (rank as f32).powf(-1.0 / 3.0);
        let [tails, heads, relations] =
            [graph.entities, graph.entities, graph.relations].map(|len| Parameter::new([len, rank], deviation, random));
        Cp { tails, heads, relations, context }
    }
}

/// A row for each index: 1 there and 0 elsewhere.
fn one_hot(indices: impl ExactSizeIterator<Item = usize>, len: usize) -> Result<Tensor<f32, 2>> {
    let shape = [indices.len(), len];
    let mut rows = vec![0.0; shape[0] * len];
    indices.enumerate().for_each(|(row, index)| rows[row * len + index] = 1.0);
    Tensor::from_vec(rows, shape)
}

impl Model for Cp {
    fn forward(&self, queries: &Queries) -> Result<Forward> {
        let z = one_hot(queries.asked.iter().map(|&(head, _)| queries.heads[head]), self.heads.shape[0])?;
        let x = one_hot(queries.asked.iter().map(|&(_, relation)| relation), self.relations.shape[0])?;
        let layer = Interaction::cp(self.tails.view()?, self.heads.view()?, self.relations.view()?)?;
        let scores = layer.with_context(self.context).forward(z.view(), x.view())?;
        Ok(Forward { z, x, scores })
    }

    fn backward(&mut self, _: &Queries, forward: &Forward, g: View<'_, f32, 2>) -> Result<()> {
        let ((tails, a), (heads, b), (relations, c)) =
            (self.tails.split()?, self.heads.split()?, self.relations.split()?);
        let factors = WantedFactors { a: Some(a), b: Some(b), c: Some(c), lambda: None };
        let layer = Interaction::cp(tails, heads, relations)?.with_context(self.context);
        layer.backward_into(forward.z.view(), forward.x.view(), g, Wanted { cp: factors, ..Wanted::default() })
    }

    fn step(&mut self, adam: &Adam) {
        self.tails.step(adam);
        self.heads.step(adam);
        self.relations.step(adam);
    }
}

/// Goes once over all training triples, in batches of the queries of some heads; returns their mean -log softmax.
pub fn epoch(
    model: &mut dyn Model,
    graph: &Graph,
    triples: &[Vec<(usize, Vec<usize>)>],
    batch: usize,
    adam: &mut Adam,
    random: &mut Random,
) -> Result<f64> {
    let mut loss = 0.0;
    for heads in random.permutation(graph.entities).chunks(batch.max(1)) {
        let mut queries = Queries { heads: heads.to_vec(), asked: Vec::new() };
        let mut targets = Vec::new();
        for (position, &head) in heads.iter().enumerate() {
            queries.asked.extend(triples[head].iter().map(|&(relation, _)| (position, relation)));
            targets.extend(triples[head].iter().map(|(_, tails)| tails.as_slice()));
        }
        let count: usize = targets.iter().map(|tails| tails.len()).sum();
        let forward = model.forward(&queries)?;
        let mut g = forward.scores.as_slice().to_vec();
        for (row, tails) in g.chunks_mut(graph.entities).zip(targets) {
            loss += cross_entropy(row, tails, 1.0 / count as f32);
        }
        model.backward(&queries, &forward, View::new(&g, forward.scores.shape())?)?;
        adam.next();
        model.step(adam);
    }
    Ok(loss / graph.train.len() as f64)
}

/// How well the tails of some triples are ranked among all entities but those that are known to be tails too.
pub struct Ranking {
    /// The mean of 1 / rank.
    pub mrr: f64,
    /// The share of ranks up to 10.
    pub hits: f64,
}

/// The filtered ranking of these triples. An entity with the same score counts as half a rank.
pub fn evaluate(model: &dyn Model, graph: &Graph, triples: &[Triple]) -> Result<Ranking> {
    let all = [&graph.train[..], &graph.valid, &graph.test].concat();
    let known = graph.queries(&all);
    let mut ranking = Ranking { mrr: 0.0, hits: 0.0 };
    for (head, asked) in graph.queries(triples).into_iter().enumerate() {
        let queries = Queries { heads: vec![head], asked: asked.iter().map(|&(relation, _)| (0, relation)).collect() };
        let scores = model.forward(&queries)?.scores;
        for ((relation, tails), row) in asked.into_iter().zip(scores.as_slice().chunks(graph.entities)) {
            let others = known[head].iter().find(|(other, _)| *other == relation).map_or(&[][..], |(_, tails)| tails);
            let counted: Vec<f32> =
                (0..graph.entities).filter(|tail| !others.contains(tail)).map(|tail| row[tail]).collect();
            for tail in tails {
                let above = counted.iter().filter(|&&score| score > row[tail]).count() as f64;
                let level = counted.iter().filter(|&&score| score == row[tail]).count() as f64;
                let rank = 1.0 + above + level / 2.0;
                ranking.mrr += 1.0 / rank;
                ranking.hits += f64::from(rank <= 10.0);
            }
        }
    }
    let count = triples.len().max(1) as f64;
    Ok(Ranking { mrr: ranking.mrr / count, hits: ranking.hits / count })
}
