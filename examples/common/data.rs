//! The data sets in `examples/data`, which `scripts/fetch_data.py` makes.

use std::io::{Error, Result};
use std::path::Path;

/// Where the data sets are.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data");

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// That a line is not what it should be.
fn wrong(path: &Path, line: usize, what: &str) -> Error {
    Error::other(format!("{}, line {}: {what}", path.display(), line + 1))
}

/// The UCI digits: images of 8 × 8 pixels in 0..1, row by row, and their classes.
pub struct Digits {
    pub pixels: Vec<f32>,
    pub classes: Vec<usize>,
}

impl Digits {
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("digits.txt");
        let mut digits = Digits { pixels: Vec::new(), classes: Vec::new() };
        for (number, line) in read(&path)?.lines().enumerate() {
            let (image, class) = line.split_once(' ').ok_or_else(|| wrong(&path, number, "no space"))?;
            let before = digits.pixels.len();
            digits.pixels.extend(image.chars().filter_map(|pixel| pixel.to_digit(17)).map(|pixel| pixel as f32 / 16.0));
            if digits.pixels.len() - before != 64 {
                return Err(wrong(&path, number, "not 64 pixels"));
            }
            let class = class.parse().ok().filter(|&class: &usize| class < 10);
            digits.classes.push(class.ok_or_else(|| wrong(&path, number, "no class in 0..10"))?);
        }
        Ok(digits)
    }
}

/// A triple of a knowledge graph, or with the relation R + r its reverse: (tail, r⁻¹, head).
#[derive(Clone, Copy)]
pub struct Triple {
    pub head: usize,
    pub relation: usize,
    pub tail: usize,
}

/// A knowledge graph. Every triple is there twice, as itself and reversed (Lacroix et al., *Canonical Tensor Decomposition
/// for Knowledge Base Completion*, ICML 2018): to ask for a head is to ask for the tail of a reversed triple.
pub struct Graph {
    pub entities: usize,
    /// With the reversed ones, 2R.
    pub relations: usize,
    pub train: Vec<Triple>,
    pub valid: Vec<Triple>,
    pub test: Vec<Triple>,
}

impl Graph {
    pub fn load(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(format!("{name}.tsv"));
        let text = read(&path)?;
        let mut lines = text.lines().enumerate();
        let mut names = |what: &str| {
            let mut fields = lines.next().map_or("", |(_, line)| line).split('\t');
            let found = fields.next() == Some(what);
            found.then(|| fields.count()).ok_or_else(|| Error::other(format!("{}: no line of {what}", path.display())))
        };
        let (entities, relations) = (names("entities")?, names("relations")?);
        let [mut train, mut valid, mut test] = [const { Vec::new() }; 3];
        for (number, line) in lines {
            let fields: Vec<&str> = line.split('\t').collect();
            let split = match fields[0] {
                "train" => &mut train,
                "valid" => &mut valid,
                "test" => &mut test,
                _ => return Err(wrong(&path, number, "not train, valid or test")),
            };
            let indices: Vec<usize> = fields[1..].iter().filter_map(|field| field.parse().ok()).collect();
            match indices[..] {
                [head, relation, tail] if head.max(tail) < entities && relation < relations => {
                    split.push(Triple { head, relation, tail });
                    split.push(Triple { head: tail, relation: relation + relations, tail: head });
                }
                _ => return Err(wrong(&path, number, "not a head, a relation and a tail")),
            }
        }
        Ok(Graph { entities, relations: 2 * relations, train, valid, test })
    }

    /// For each head the relations that it has in these triples, each with its tails.
    pub fn queries(&self, triples: &[Triple]) -> Vec<Vec<(usize, Vec<usize>)>> {
        let mut tails = vec![vec![Vec::new(); self.relations]; self.entities];
        triples.iter().for_each(|triple| tails[triple.head][triple.relation].push(triple.tail));
        let some =
            |tails: Vec<Vec<usize>>| tails.into_iter().enumerate().filter(|(_, tails)| !tails.is_empty()).collect();
        tails.into_iter().map(some).collect()
    }
}
