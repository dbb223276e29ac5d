//! PTX text to tokens.

use super::ParseError;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A name, number, directive or opcode with its modifiers: all that is of letters, digits and `_ $ % . ::`.
    Word(&'a str),
    /// A quoted string, without its quotes.
    Text(&'a str),
    Punct(u8),
}

/// A token and its line, from 1.
pub(super) type Located<'a> = (Token<'a>, u32);

/// All tokens; comments, `.loc`, `.file` and DWARF lines are dropped.
pub(super) fn tokens(text: &str) -> Result<Vec<Located<'_>>, ParseError> {
    let bytes = text.as_bytes();
    let (mut at, mut line, mut found) = (0, 1, Vec::new());
    let word = |at: usize| matches!(bytes[at], b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'$' | b'%' | b'.');
    while at < bytes.len() {
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            0 | b' ' | b'\t' | b'\r' => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => at = end_of_line(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let end = text[at + 2..].find("*/").map_or(bytes.len(), |length| at + 2 + length + 2);
                line += bytes[at..end].iter().filter(|&&byte| byte == b'\n').count() as u32;
                at = end;
            }
            b'@' if bytes.get(at + 1) == Some(&b'@') => at = end_of_line(bytes, at),
            b'"' => {
                let Some(length) = text[at + 1..].find('"') else {
                    return Err(ParseError::Syntax { line, message: "string without an end".into() });
                };
                found.push((Token::Text(&text[at + 1..at + 1 + length]), line));
                at += length + 2;
            }
            _ if word(at) => {
                let start = at;
                while at < bytes.len() && (word(at) || (bytes[at..].starts_with(b"::"))) {
                    at += if bytes[at] == b':' { 2 } else { 1 };
                }
                match &text[start..at] {
                    ".loc" | ".file" => at = end_of_line(bytes, at),
                    // Directives need no space between them: `.reg.b32`.
                    word if word.starts_with('.') => {
                        let mut from = 0;
                        while from < word.len() {
                            let next = word[from + 1..].find('.').map_or(word.len(), |length| from + 1 + length);
                            found.push((Token::Word(&word[from..next]), line));
                            from = next;
                        }
                    }
                    word => found.push((Token::Word(word), line)),
                }
            }
            byte if byte.is_ascii_graphic() => {
                found.push((Token::Punct(byte), line));
                at += 1;
            }
            byte => return Err(ParseError::Syntax { line, message: format!("unexpected byte {byte:#04x}") }),
        }
    }
    Ok(found)
}

fn end_of_line(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |length| at + length)
}
