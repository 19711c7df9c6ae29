//! Asks on a terminal for the values that have no default.

use std::io::{self, BufRead, Write};

use crate::values::{LINEAGE, Values, ValuesError};

/// A setting that has to be given, with its question.
const QUESTIONS: [(&str, &str); 5] = [
    (
        "transit.keyIdScope.clusterId",
        "Name of the cluster, for example east",
    ),
    (
        "openbao.address",
        "Address of OpenBao, for example https://bao.example:8200",
    ),
    (
        "auth.jwt.expectedIssuer",
        "Issuer (iss) of the nodes' JWTs, for example https://issuer.example",
    ),
    (
        "auth.jwt.expectedSubject",
        "Subject (sub) of the nodes' JWTs",
    ),
    (LINEAGE, "Lineage of the existing key; empty for a new key"),
];

/// Why an answer could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    #[error("the terminal was closed before all questions were answered; nothing was written")]
    Closed,
    #[error("cannot use the terminal")]
    Terminal(#[from] io::Error),
    #[error(transparent)]
    Values(#[from] ValuesError),
}

/// Asks for each required setting without a value.
///
/// # Errors
/// The terminal was closed, or an answer is of another form.
pub fn ask(
    values: &mut Values,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), QuestionError> {
    for (path, question) in QUESTIONS {
        let other_method = path.starts_with("auth.jwt.")
            && values
                .text("auth.method")
                .is_some_and(|method| method != "jwt");
        if values.has(path) || other_method {
            continue;
        }
        let answer = loop {
            write!(output, "{question}: ")?;
            output.flush()?;
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Err(QuestionError::Closed);
            }
            let answer = line.trim().to_owned();
            if !answer.is_empty() || path == LINEAGE {
                break answer;
            }
        };
        match answer.is_empty() {
            true => values.new_lineage()?,
            false => values.set(&format!("{path}={answer}"))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_values_are_asked_for() {
        let mut values = Values::default();
        values.set("openbao.address=https://bao.test:8200").unwrap();
        let mut said = Vec::new();
        let mut answers = &b"\neast\nhttps://issuer.test\nkms\n\n"[..];
        ask(&mut values, &mut answers, &mut said).unwrap();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(said.matches("Name of the cluster").count(), 2);
        assert!(!said.contains("Address of OpenBao"), "{said}");
        assert_eq!(values.text("transit.keyIdScope.clusterId"), Some("east"));
        assert_eq!(values.text(LINEAGE).unwrap().len(), 32);
    }

    #[test]
    fn a_closed_terminal_ends_the_questions() {
        let closed = ask(&mut Values::default(), &mut &b"east\n"[..], &mut Vec::new());
        assert!(matches!(closed, Err(QuestionError::Closed)));
    }
}
