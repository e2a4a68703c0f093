//! Just enough of Rust's grammar to tell code from comments and literals.

/// The same text, line by line and byte by byte, with comments and the contents of string and
/// character literals replaced by spaces.
pub(crate) fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = at
            + if rest.starts_with(b"//") {
                rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
            } else if rest.starts_with(b"/*") {
                block_comment(rest)
            } else if let Some(length) = raw_string(bytes, at) {
                length
            } else if rest[0] == b'"' {
                quoted(rest, b'"')
            } else if rest[0] == b'\'' {
                character(rest)
            } else {
                at += 1;
                continue;
            };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    // Only whole literals and comments were replaced, so what is left is UTF-8 still.
    String::from_utf8_lossy(&out).into_owned()
}

/// The length of a block comment, nested ones included.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a raw string that begins here with its `r`, `br` or `cr`.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if in_word {
        return None;
    }
    let rest = &bytes[at..];
    let mark = usize::from(matches!(rest[0], b'b' | b'c'));
    if rest.get(mark) != Some(&b'r') {
        return None;
    }
    let hashes = rest[mark + 1..].iter().take_while(|b| **b == b'#').count();
    let open = mark + 1 + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let body = &rest[open + 1..];
    let length = body.windows(close.len()).position(|w| w == close);
    Some(length.map_or(rest.len(), |n| open + 1 + n + close.len()))
}

/// The length of a literal with escapes.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a character literal; 1 for the tick of a lifetime or a label.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return quoted(rest, b'\'');
    }
    // A character has at most four bytes, and none of them may be a newline.
    let closing = (2..6).find(|n| rest.get(*n) == Some(&b'\''));
    match closing {
        Some(n) if std::str::from_utf8(&rest[1..n]).is_ok_and(|c| c.chars().count() == 1) => n + 1,
        _ => 1,
    }
}

/// Whether `code` has `word` as a whole word.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    words(code).any(|w| w == word)
}

/// The identifiers and keywords of `code`.
pub(crate) fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = concat!(
            "let a = \"unsafe\"; // unsafe\n",
            "/* unsafe /* unsafe */ unsafe */ let b = 'u';\n",
            "let c = r#\"unsafe \" unsafe\"#; let d = b\"\\\"unsafe\";\n",
            "fn e<'unsafely>(x: &'unsafely str) -> char { '\\'' }\n",
        );
        let code = code_only(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.lines().count(), text.lines().count());
        assert!(!has_word(&code, "unsafe"), "{code}");
        for kept in ["let", "a", "b", "c", "d", "fn", "unsafely", "str", "char"] {
            assert!(has_word(&code, kept), "{kept}: {code}");
        }
    }

    #[test]
    fn code_after_a_literal_is_code() {
        assert!(has_word(&code_only("let q = '\"'; unsafe { x }"), "unsafe"));
        assert!(has_word(&code_only("let q = 'é'; unsafe { x }"), "unsafe"));
        assert!(has_word(&code_only("br\"x\"; unsafe { x }"), "unsafe"));
        assert!(has_word(&code_only("let bar = 1; for_r(\"#\"); unsafe {}"), "unsafe"));
    }
}
