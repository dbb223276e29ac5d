//! Statements: declarations within functions, labels, instructions and their operands.

use super::{
    lexer::Token,
    parser::{Parser, Result, Scope, literal},
    types::*,
};

impl<'a> Parser<'a> {
    pub(super) fn statement(&mut self, body: &mut Body) -> Result<()> {
        match self.peek() {
            Some(Token::Punct(b'{')) => {
                self.at += 1;
                let id = body.scopes.len();
                body.scopes.push(self.scopes.last().map_or(0, |scope| scope.id));
                self.scopes.push(Scope { id, ..Scope::default() });
                Ok(())
            }
            Some(Token::Punct(b'}')) => {
                self.at += 1;
                self.scopes.pop();
                Ok(())
            }
            Some(Token::Punct(b';')) => {
                self.at += 1;
                Ok(())
            }
            Some(Token::Word(word)) => match word {
                ".reg" => self.registers(body),
                ".pragma" => {
                    self.skip_statement();
                    Ok(())
                }
                ".section" => {
                    self.at += 2;
                    self.skip_braces()
                }
                ".extern" | ".shared" | ".local" | ".param" | ".const" | ".global" => {
                    let external = word == ".extern";
                    self.at += usize::from(external);
                    let start = self.at;
                    let variable = self.variable(external)?;
                    self.declare(variable, start, body);
                    self.expect(b';')
                }
                _ if self.tokens.get(self.at + 1).map(|token| token.0) == Some(Token::Punct(b':')) => {
                    self.label(word, body)
                }
                _ => self.instruction(body),
            },
            Some(Token::Punct(b'@')) => self.instruction(body),
            _ => self.fail("a statement expected"),
        }
    }

    fn label(&mut self, name: &'a str, body: &mut Body) -> Result<()> {
        self.at += 2;
        let scope = self.scopes.last().map_or(0, |scope| scope.id);
        match self.peek_word() {
            Some(".branchtargets") => {
                self.at += 1;
                let mut labels = vec![self.word()?.to_string()];
                while self.accept(b',') {
                    labels.push(self.word()?.to_string());
                }
                body.targets.push((name.to_string(), scope, labels));
                self.expect(b';')
            }
            Some(".callprototype" | ".calltargets") => {
                self.skip_statement();
                Ok(())
            }
            _ => {
                body.labels.push((name.to_string(), scope, body.instructions.len()));
                Ok(())
            }
        }
    }

    fn registers(&mut self, body: &mut Body) -> Result<()> {
        self.at += 1;
        let word = self.word()?;
        let Some(kind) = word.strip_prefix('.').and_then(Type::named) else {
            return self.fail(format!("a register type expected, not `{word}`"));
        };
        loop {
            let name = self.word()?;
            let first = body.registers.len() as Register;
            let Some(scope) = self.scopes.last_mut() else { return self.fail("a scope expected") };
            if self.tokens.get(self.at).map(|token| token.0) == Some(Token::Punct(b'<')) {
                self.at += 1;
                let count = self.number()? as u32;
                self.expect(b'>')?;
                if let Some(scope) = self.scopes.last_mut() {
                    scope.families.push((name, first, count));
                }
                body.registers.extend((0..count).map(|i| (format!("{name}{i}"), kind)));
            } else {
                scope.registers.insert(name, first);
                body.registers.push((name.to_string(), kind));
            }
            if !self.accept(b',') {
                return self.expect(b';');
            }
        }
    }

    fn instruction(&mut self, body: &mut Body) -> Result<()> {
        let mut guard = None;
        if self.accept(b'@') {
            let negated = self.accept(b'!');
            let name = self.word()?;
            let Some(register) = self.register(name) else {
                return self.fail(format!("no predicate `{name}`"));
            };
            guard = Some((register, negated));
        }
        let line = self.line();
        let opcode = self.word()?.to_string();
        let mut operands = Vec::new();
        while !self.is(b';') {
            operands.push(self.operand(&opcode)?);
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b';')?;
        let scope = self.scopes.last().map_or(0, |scope| scope.id);
        let call = opcode.split('.').next() == Some("call");
        body.instructions.push(Instruction { guard, opcode, operands, line, scope });
        if call && let Some(call) = body.instructions.last().cloned() {
            // Where the results are taken.
            body.instructions.push(Instruction { opcode: "%return".into(), ..call });
        }
        Ok(())
    }

    fn register(&self, name: &str) -> Option<Register> {
        self.scopes.iter().rev().find_map(|scope| {
            scope.registers.get(name).copied().or_else(|| {
                let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
                // The prefix may itself end in digits (`%rd_1<4>`).
                scope.families.iter().find_map(|&(family, first, count)| {
                    let digits = name.strip_prefix(family).filter(|_| family.len() <= name.len())?;
                    let index: u32 = if family.len() >= prefix.len() { digits.parse().ok()? } else { return None };
                    (index < count && (digits == "0" || !digits.starts_with('0'))).then(|| first + index)
                })
            })
        })
    }

    fn operand(&mut self, opcode: &str) -> Result<Operand> {
        match self.peek() {
            Some(Token::Punct(b'{')) => Ok(Operand::Vector(self.sequence(b'{', b'}', opcode)?)),
            Some(Token::Punct(b'(')) => Ok(Operand::List(self.sequence(b'(', b')', opcode)?)),
            Some(Token::Punct(b'[')) => {
                self.at += 1;
                let base = self.operand(opcode)?;
                let (base, offset) = match base {
                    Operand::Symbol(symbol, addend) => (Operand::Symbol(symbol, 0), addend),
                    base => (base, self.addend()?),
                };
                self.expect(b']')?;
                Ok(Operand::Address(Box::new(base), offset))
            }
            Some(Token::Punct(b'!')) => {
                self.at += 1;
                let name = self.word()?;
                match self.register(name) {
                    Some(register) => Ok(Operand::Not(register)),
                    None => self.fail(format!("no predicate `{name}`")),
                }
            }
            Some(Token::Punct(b'-')) => self.constant(),
            Some(Token::Word("_")) => {
                self.at += 1;
                if self.accept(b'|') {
                    let second = self.operand(opcode)?;
                    return Ok(Operand::Pair(Box::new(Operand::Sink), Box::new(second)));
                }
                Ok(Operand::Sink)
            }
            Some(Token::Word(word)) => {
                if literal(word).is_some() {
                    return self.constant();
                }
                self.at += 1;
                if let Some(register) = self.register(word) {
                    if self.accept(b'|') {
                        let second = self.operand(opcode)?;
                        return Ok(Operand::Pair(Box::new(Operand::Register(register)), Box::new(second)));
                    }
                    return Ok(Operand::Register(register));
                }
                if word.starts_with('%') {
                    return Ok(Operand::Special(word.to_string()));
                }
                if matches!(opcode.split('.').next(), Some("bra" | "brx")) {
                    return Ok(Operand::Label(word.to_string()));
                }
                let symbol = match self.scopes.iter().rev().find_map(|scope| scope.variables.get(word)) {
                    Some(&variable) => Symbol::Local(variable),
                    None => Symbol::Module(word.to_string()),
                };
                Ok(Operand::Symbol(symbol, self.addend()?))
            }
            _ => self.fail("an operand expected"),
        }
    }

    /// `+ 4`, `- 4`, `+-4`, or nothing.
    fn addend(&mut self) -> Result<i64> {
        if self.accept(b'+') || self.is(b'-') { Ok(self.number()? as i64) } else { Ok(0) }
    }

    fn sequence(&mut self, open: u8, close: u8, opcode: &str) -> Result<Vec<Operand>> {
        self.expect(open)?;
        let mut found = Vec::new();
        while !self.accept(close) {
            found.push(self.operand(opcode)?);
            if !self.is(close) {
                self.expect(b',')?;
            }
        }
        Ok(found)
    }
}
