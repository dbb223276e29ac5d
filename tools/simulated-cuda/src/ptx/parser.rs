//! Tokens to a module's variables and function bodies.

use super::{
    ParseError,
    lexer::{Located, Token, tokens},
    types::*,
};
use std::collections::HashMap;

/// A module as written.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) version: (u32, u32),
    pub(super) target: String,
    pub(super) variables: Vec<Variable>,
    pub(super) functions: Vec<Body>,
}

pub(super) type Result<T> = std::result::Result<T, ParseError>;

pub(super) fn parse(text: &str) -> Result<Tree> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, scopes: Vec::new() };
    parser.module()
}

pub(super) struct Parser<'a> {
    pub(super) tokens: Vec<Located<'a>>,
    pub(super) at: usize,
    pub(super) scopes: Vec<Scope<'a>>,
}

/// Names declared between braces.
#[derive(Default)]
pub(super) struct Scope<'a> {
    pub(super) id: usize,
    pub(super) registers: HashMap<&'a str, Register>,
    /// `%r<8>`: prefix, first register, count.
    pub(super) families: Vec<(&'a str, Register, u32)>,
    pub(super) variables: HashMap<&'a str, usize>,
}

impl<'a> Parser<'a> {
    pub(super) fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.1)
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(ParseError::Syntax { line: self.line(), message: message.into() })
    }

    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|token| token.0)
    }

    pub(super) fn is(&self, punct: u8) -> bool {
        self.peek() == Some(Token::Punct(punct))
    }

    pub(super) fn accept(&mut self, punct: u8) -> bool {
        let found = self.is(punct);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, punct: u8) -> Result<()> {
        if self.accept(punct) { Ok(()) } else { self.fail(format!("`{}` expected", punct as char)) }
    }

    pub(super) fn word(&mut self) -> Result<&'a str> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.fail("a name expected"),
        }
    }

    pub(super) fn peek_word(&self) -> Option<&'a str> {
        match self.peek() {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    pub(super) fn number(&mut self) -> Result<u64> {
        match self.constant()? {
            Operand::Int(value) => Ok(value),
            _ => self.fail("an integer expected"),
        }
    }

    /// A literal, with its sign.
    pub(super) fn constant(&mut self) -> Result<Operand> {
        let negative = self.accept(b'-');
        let word = self.word()?;
        let Some(value) = literal(word) else {
            self.at -= 1;
            return self.fail(format!("a number expected, not `{word}`"));
        };
        Ok(match value {
            Operand::Int(value) if negative => Operand::Int(value.wrapping_neg()),
            Operand::F32(bits) if negative => Operand::F32(bits ^ 1 << 31),
            Operand::F64(bits) if negative => Operand::F64(bits ^ 1 << 63),
            value => value,
        })
    }

    pub(super) fn skip_braces(&mut self) -> Result<()> {
        let mut depth = 0;
        loop {
            match self.peek() {
                Some(Token::Punct(b'{')) => depth += 1,
                Some(Token::Punct(b'}')) => depth -= 1,
                None => return self.fail("`}` expected"),
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }

    pub(super) fn skip_statement(&mut self) {
        while !matches!(self.peek(), None | Some(Token::Punct(b';'))) {
            self.at += 1;
        }
        self.accept(b';');
    }

    fn module(&mut self) -> Result<Tree> {
        let mut tree = Tree::default();
        while let Some(word) = self.peek_word() {
            match word {
                ".version" => {
                    self.at += 1;
                    let text = self.word()?;
                    let parsed = text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                    let Some(version) = parsed else { return self.fail("a version expected") };
                    tree.version = version;
                }
                ".target" => {
                    self.at += 1;
                    tree.target = self.word()?.to_string();
                    while self.accept(b',') {
                        self.word()?;
                    }
                }
                ".address_size" => {
                    self.at += 1;
                    if self.number()? != 64 {
                        return self.fail(".address_size 64 expected");
                    }
                }
                ".section" => {
                    self.at += 2;
                    self.skip_braces()?;
                }
                ".pragma" | ".alias" => self.skip_statement(),
                _ => self.declaration(&mut tree)?,
            }
        }
        if self.at < self.tokens.len() {
            return self.fail("a directive expected");
        }
        if tree.version == (0, 0) || tree.target.is_empty() {
            return self.fail("no .version or no .target");
        }
        Ok(tree)
    }

    fn declaration(&mut self, tree: &mut Tree) -> Result<()> {
        let mut external = false;
        loop {
            match self.peek_word() {
                Some(".extern") => external = true,
                Some(".visible" | ".weak" | ".common") => {}
                Some(".entry" | ".func") => {
                    let function = self.function()?;
                    // A declaration before the definition.
                    tree.functions.retain(|other| other.defined || other.name != function.name);
                    if function.defined || tree.functions.iter().all(|other| other.name != function.name) {
                        tree.functions.push(function);
                    }
                    return Ok(());
                }
                Some(".global" | ".const" | ".shared") => {
                    tree.variables.push(self.variable(external)?);
                    return self.expect(b';');
                }
                _ => return self.fail("a declaration expected"),
            }
            self.at += 1;
        }
    }

    pub(super) fn variable(&mut self, external: bool) -> Result<Variable> {
        let space = match self.word()? {
            ".global" => StateSpace::Global,
            ".const" => StateSpace::Const,
            ".shared" | ".shared::cta" => StateSpace::Shared,
            ".local" => StateSpace::Local,
            ".param" => StateSpace::Param,
            _ => return self.fail("a state space expected"),
        };
        let (mut align, mut kind, mut lanes) = (None, None, 1);
        loop {
            match self.peek_word() {
                Some(".align") => {
                    self.at += 1;
                    align = Some(self.number()? as u32);
                }
                Some(".v2") => {
                    lanes = 2;
                    self.at += 1;
                }
                Some(".v4") => {
                    lanes = 4;
                    self.at += 1;
                }
                // `.param .u64 .ptr .global .align 16 name`: what the parameter points to.
                Some(".ptr") => {
                    self.at += 1;
                    while let Some(word) = self.peek_word().filter(|word| word.starts_with('.')) {
                        self.at += 1;
                        if word == ".align" {
                            self.number()?;
                        }
                    }
                }
                Some(".attribute") => {
                    self.at += 1;
                    self.expect(b'(')?;
                    while !self.accept(b')') {
                        self.at += 1;
                    }
                }
                Some(word) if word.starts_with('.') => {
                    let Some(found) = Type::named(&word[1..]) else { return self.fail("a type expected") };
                    kind = Some(found);
                    self.at += 1;
                }
                _ => break,
            }
        }
        let Some(kind) = kind else { return self.fail("a type expected") };
        let name = self.word()?.to_string();
        let (mut count, mut open) = (1, false);
        while self.accept(b'[') {
            if self.accept(b']') {
                open = true;
                continue;
            }
            count *= self.number()?;
            self.expect(b']')?;
        }
        let element = kind.bytes() * lanes;
        let mut variable = Variable {
            name,
            space,
            align: align.unwrap_or(element).max(1),
            bytes: if open { 0 } else { u64::from(element) * count },
            external,
            initial: Vec::new(),
            relocations: Vec::new(),
        };
        if self.accept(b'=') {
            self.initialiser(kind, &mut variable)?;
            if open {
                variable.bytes = variable.initial.len() as u64;
            }
            variable.initial.resize(variable.bytes as usize, 0);
        }
        Ok(variable)
    }

    fn initialiser(&mut self, kind: Type, to: &mut Variable) -> Result<()> {
        if self.accept(b'{') {
            while !self.accept(b'}') {
                self.initialiser(kind, to)?;
                self.accept(b',');
            }
            return Ok(());
        }
        let bytes = kind.bytes() as usize;
        let numeric = self.is(b'-') || self.peek_word().is_some_and(|word| literal(word).is_some());
        let value = if numeric {
            match (self.constant()?, kind) {
                (Operand::Int(value), Type::F32) => u64::from((value as f32).to_bits()),
                (Operand::F64(bits), Type::F32) => u64::from((f64::from_bits(bits) as f32).to_bits()),
                (Operand::Int(value) | Operand::F64(value), _) => value,
                (Operand::F32(value), _) => u64::from(value),
                _ => return self.fail("a number expected"),
            }
        } else {
            let mut name = self.word()?;
            // generic(name)
            if name == "generic" && self.accept(b'(') {
                name = self.word()?;
                self.expect(b')')?;
            }
            let addend = if self.accept(b'+') { self.number()? as i64 } else { 0 };
            to.relocations.push((to.initial.len() as u64, name.to_string(), addend));
            0
        };
        to.initial.extend_from_slice(&value.to_le_bytes()[..bytes]);
        Ok(())
    }

    fn function(&mut self) -> Result<Body> {
        let mut body = Body { entry: self.word()? == ".entry", scopes: vec![0], ..Body::default() };
        self.scopes = vec![Scope::default()];
        if self.is(b'(') {
            body.returns = self.parameters(&mut body)?;
        }
        body.name = self.word()?.to_string();
        if self.is(b'(') {
            body.params = self.parameters(&mut body)?;
        }
        loop {
            match self.peek() {
                Some(Token::Punct(b';')) => {
                    self.at += 1;
                    return Ok(body);
                }
                Some(Token::Punct(b'{')) => break,
                Some(Token::Word(".pragma")) => self.skip_statement(),
                Some(Token::Word(word)) if word.starts_with('.') => {
                    self.at += 1;
                    let mut values = Vec::new();
                    while self.peek_word().is_some_and(|word| literal(word).is_some()) {
                        values.push(self.number()?);
                        self.accept(b',');
                    }
                    if matches!(word, ".maxntid" | ".reqntid") {
                        body.max_threads = Some(values.iter().product::<u64>() as u32);
                    }
                }
                _ => return self.fail("a function's body expected"),
            }
        }
        self.at += 1;
        body.defined = true;
        while !self.scopes.is_empty() {
            self.statement(&mut body)?;
        }
        Ok(body)
    }

    fn parameters(&mut self, body: &mut Body) -> Result<Vec<usize>> {
        let mut found = Vec::new();
        self.expect(b'(')?;
        while !self.accept(b')') {
            if self.peek_word() == Some(".reg") {
                return Err(ParseError::Unsupported { line: self.line(), what: "parameters in registers".into() });
            }
            let start = self.at;
            let variable = self.variable(false)?;
            found.push(self.declare(variable, start, body));
            self.accept(b',');
        }
        Ok(found)
    }

    /// Adds a variable to the function and the scope; `start` is the token where it began.
    pub(super) fn declare(&mut self, variable: Variable, start: usize, body: &mut Body) -> usize {
        let name = self.tokens[start..self.at].iter().find_map(|token| match token.0 {
            Token::Word(word) if word == variable.name => Some(word),
            _ => None,
        });
        let id = body.variables.len();
        if let (Some(name), Some(scope)) = (name, self.scopes.last_mut()) {
            scope.variables.insert(name, id);
        }
        body.variables.push(variable);
        id
    }
}

/// A literal: integers, `0f3F800000`, `0d3FF0000000000000`, decimal floats.
pub(super) fn literal(word: &str) -> Option<Operand> {
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let radix = |digits: &str, radix| u64::from_str_radix(digits.trim_end_matches('U'), radix).ok();
    match word.get(..2) {
        Some("0f" | "0F") => return Some(Operand::F32(u32::from_str_radix(&word[2..], 16).ok()?)),
        Some("0d" | "0D") => return Some(Operand::F64(u64::from_str_radix(&word[2..], 16).ok()?)),
        Some("0x" | "0X") => return Some(Operand::Int(radix(&word[2..], 16)?)),
        Some("0b" | "0B") => return Some(Operand::Int(radix(&word[2..], 2)?)),
        _ => {}
    }
    if word.contains(['.', 'e', 'E']) {
        return Some(Operand::F64(word.parse::<f64>().ok()?.to_bits()));
    }
    if word.len() > 1 && word.starts_with('0') {
        return Some(Operand::Int(radix(&word[1..], 8)?));
    }
    Some(Operand::Int(radix(word, 10)?))
}
