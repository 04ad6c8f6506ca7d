//! Checks the quotes of a CSV file by the rules of RFC 4180, before it is parsed.
//!
//! The parser accepts any quotes, and a stray one makes it read many rows as one field. Such a file is refused as a
//! whole, because its rows cannot be determined.

enum State {
    FieldStart,
    Unquoted,
    /// In a quoted field, or after its closing quote.
    Quoted(QuotedField),
    AfterQuote(QuotedField),
    /// After the closing quote and a space.
    Closed,
}

#[derive(Clone, Copy)]
struct QuotedField {
    first_line: u64,
    has_line_break: bool,
    /// A comma after a line break: probably a row that was read as part of the field.
    contains_row: bool,
}

/// # Errors
/// A message that names the line of the first quote that violates the rules.
pub fn check(text: &[u8]) -> Result<(), String> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let mut state = State::FieldStart;
    let mut line = 1;
    for &byte in text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text) {
        state = match (state, byte) {
            (State::FieldStart, b'"') => {
                State::Quoted(QuotedField { first_line: line, has_line_break: false, contains_row: false })
            }
            (State::Unquoted, b'"') => {
                return Err(format!(
                    "line {line}: a quote within a field that does not begin with one. Write the field in quotes, and \
                     each quote in it twice"
                ));
            }
            (State::Quoted(field), b'"') => State::AfterQuote(field),
            (State::Quoted(field), b'\n' | b'\r') => State::Quoted(QuotedField { has_line_break: true, ..field }),
            (State::Quoted(field), b',') => State::Quoted(QuotedField { contains_row: field.has_line_break, ..field }),
            (State::Quoted(field), _) | (State::AfterQuote(field), b'"') => State::Quoted(field),
            (State::AfterQuote(field), _) if field.contains_row => {
                let first = field.first_line;
                return Err(format!(
                    "lines {first} to {line}: a field in quotes contains line breaks and commas, as if a quote were \
                     stray. Remove the quote or the line breaks"
                ));
            }
            (State::FieldStart | State::Unquoted | State::AfterQuote(_) | State::Closed, b',' | b'\n' | b'\r') => {
                State::FieldStart
            }
            (State::AfterQuote(_) | State::Closed, b' ' | b'\t') => State::Closed,
            (State::AfterQuote(_) | State::Closed, _) => {
                return Err(format!(
                    "line {line}: text after the closing quote of a field. Write each quote within the field twice"
                ));
            }
            (State::FieldStart | State::Unquoted, _) => State::Unquoted,
        };
        line += u64::from(byte == b'\n');
    }
    match state {
        State::Quoted(QuotedField { first_line, .. }) => {
            Err(format!("line {first_line}: the quote that opens a field here is never closed"))
        }
        State::AfterQuote(QuotedField { first_line, contains_row: true, .. }) => Err(format!(
            "line {first_line}: a field in quotes contains line breaks and commas up to the end of the file"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_that_follow_the_rules_are_accepted() {
        for text in [
            "",
            "slug,name\nbella,Bella\n",
            "\u{feff}\"slug\",\"name\"\r\n\"bella\",\"Bella, \"\"Weddings\"\"\"\r\n",
            "slug,name\nbella,\"\"\nomer,\"\"\"\"\n",
            "slug,name\nbella,\"Bella\" \nomer,\"Omer\"\t,\n",
            "slug,name\nbella,\"two\nlines\"\n",
            "slug,name\nbella,\"Bella\"",
        ] {
            assert_eq!(check(text.as_bytes()), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn a_stray_quote_is_reported_with_its_line() {
        for (text, expected) in [
            ("a,b\nbella,\"Bella", "line 2: the quote that opens a field here is never closed"),
            ("a,b\nbella,\"Bella\nomer,Omer\nzoe,Zoe\n", "line 2: the quote that opens"),
            ("a,b\nbella,\"", "line 2: the quote that opens"),
            // The quote of line 2 is closed by the one that should open a field in line 4.
            ("a,b\nbella,\"Bella\nomer,Omer\nzoe,\"Zoe\"\n", "lines 2 to 4: a field in quotes contains line breaks"),
            ("a,b\nbella,\"Bella\nomer,Omer\"\n", "lines 2 to 3: a field in quotes contains line breaks"),
            ("a,b\nbella,\"Bella\nomer,Omer\"", "line 2: a field in quotes contains line breaks"),
            ("a,b\rbella,\"Bella\romer,Omer\"\r", "lines 1 to 1: a field in quotes contains line breaks"),
            ("a,b\nbella,\"Bella\"s\n", "line 2: text after the closing quote"),
            ("a,b\nbella,\"Bella\" s\n", "line 2: text after the closing quote"),
            ("a,b\nbella,Bella\"\n", "line 2: a quote within a field that does not begin with one"),
            ("a,b\nbella, \"Bella\"\n", "line 2: a quote within a field"),
        ] {
            let message = check(text.as_bytes()).unwrap_err();
            assert!(message.starts_with(expected), "{text:?}: {message}");
        }
    }
}
