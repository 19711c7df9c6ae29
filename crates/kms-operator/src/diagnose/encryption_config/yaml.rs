//! YAML as read by kube-apiserver: only the first document, in the dialect of libyaml.
//!
//! The parser implements YAML 1.2. Where libyaml is stricter, the difference is checked here: tabs,
//! names of anchors, control characters, directives, and question marks in a flow collection. Where
//! it is looser, the text is rewritten before parsing: comments, tabs, line breaks.

use std::{collections::HashMap, iter::Peekable, ops::Range};

use granit_parser::{
    ErrorKind, Event, Marker, Options, Parser, ScalarStyle, ScanError, Scanner, Span, StrInput,
    StructureStyle, TokenType, options,
};
use zeroize::Zeroizing;

use super::{
    scalar,
    value::{At, Key, Malformed, Node, Value},
};

/// Limit of the values in a file, including repetitions by aliases.
const MAX_NODES: usize = 32_768;

/// Limit of the nesting depth, far below the stack size. Levels below a provider's keys contain
/// only unknown keys.
const MAX_DEPTH: usize = 32;

const NOT_YAML: &str = "this is not YAML: look at indentation, quotes and tabs near here";
const TOO_MANY: &str = "more keys, values or aliases than any real file has";

pub(super) struct Stream {
    /// The first document; null if it is empty.
    pub(super) root: Node,
    /// Position of the content after the first document.
    pub(super) rest: Option<At>,
}

pub(super) fn parse(text: &str) -> Result<Stream, Malformed> {
    let source = Source::new(text.replace(LINE_BREAKS, "\n"));
    if let Some(at) = control_character(&source.written).or_else(|| refused_token(&source)) {
        return Err(Malformed::new(Some(at), NOT_YAML));
    }
    let mut reader = Reader {
        events: Parser::new_from_str_with_options(&source.read, dialect()).peekable(),
        anchors: HashMap::new(),
        flow: 0,
        nodes: 0,
    };
    let root = if reader.first_content()? {
        reader.node(MAX_DEPTH)?
    } else {
        let value = Value::Null;
        Node { at: None, value }
    };
    // A scalar at the root is often the start of a file with a syntax error further down.
    if let (Value::Text(_) | Value::Null, Some(Err(error))) = (&root.value, reader.events.peek()) {
        return Err(malformed(error));
    }
    let rest = reader.rest();
    Ok(Stream { root, rest })
}

/// Line breaks of YAML 1.1 outside ASCII.
const LINE_BREAKS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

fn dialect() -> Options {
    options! {
        bom_inside_document_as_content: true,
        block_scalar_eof_without_line_feed: true,
        emit_anchor_events: true,
        emit_comments: false,
    }
}

struct Reader<'a> {
    events: Peekable<Parser<'a, StrInput<'a>>>,
    /// Complete nodes, by the parser's number of their anchor.
    anchors: HashMap<usize, Node>,
    /// Number of open flow collections.
    flow: usize,
    nodes: usize,
}

type Next<'a> = (Event<'a>, Span);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Next<'a>, Malformed> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(malformed(&error)),
            None => Err(Malformed::new(None, "the file ends too early")),
        }
    }

    /// Skips to the content of the first document. `false` without a document.
    fn first_content(&mut self) -> Result<bool, Malformed> {
        loop {
            match self.next()?.0 {
                Event::DocumentStart(..) => return Ok(true),
                Event::StreamEnd => return Ok(false),
                _ => {}
            }
        }
    }

    /// Position of the first value or syntax error after the first document. kube-apiserver ignores
    /// this part.
    fn rest(&mut self) -> Option<At> {
        let mut started = false;
        for event in self.events.by_ref() {
            match event {
                Ok((Event::DocumentStart(..), _)) => started = true,
                // The parser's representation of an absent value.
                Ok((Event::Scalar(text, ScalarStyle::Plain, _, None), _)) if text == "~" => {}
                Ok((
                    Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..),
                    span,
                )) if started => return Some(place(span.start)),
                Ok(_) => {}
                Err(error) => return Some(place(*error.marker())),
            }
        }
        None
    }

    fn node(&mut self, depth: usize) -> Result<Node, Malformed> {
        let (event, span) = self.next()?;
        let at = Some(place(span.start));
        self.count(1, at)?;
        let Some(depth) = depth.checked_sub(1) else {
            return Err(Malformed::new(at, TOO_MANY));
        };

        let (anchor, value) = match event {
            Event::Alias(anchor) => return self.alias(anchor, at),
            Event::Scalar(text, style, anchor, tag) => {
                self.anchor_name(anchor)?;
                let tag = tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix()));
                let plain = style == ScalarStyle::Plain;
                if plain && self.flow > 0 && text.contains('?') {
                    return Err(Malformed::new(at, NOT_YAML));
                }
                let value = scalar::resolve(tag.as_deref(), &text, plain);
                let refused =
                    || Malformed::new(at, "a value that does not fit its tag, or no number");
                (anchor, value.ok_or_else(refused)?)
            }
            Event::SequenceStart(style, anchor, _) => {
                self.anchor_name(anchor)?;
                (anchor, self.collection(style, |reader| reader.list(depth))?)
            }
            Event::MappingStart(style, anchor, _) => {
                self.anchor_name(anchor)?;
                (anchor, self.collection(style, |reader| reader.map(depth))?)
            }
            _ => return Err(Malformed::new(at, NOT_YAML)),
        };

        let node = Node { at, value };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn count(&mut self, nodes: usize, at: Option<At>) -> Result<(), Malformed> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(Malformed::new(at, TOO_MANY));
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, at: Option<At>) -> Result<Node, Malformed> {
        let inside = || Malformed::new(at, "an alias inside of its own anchor");
        let node = self.anchors.get(&anchor).cloned().ok_or_else(inside)?;
        self.count(size(&node), at)?;
        Ok(node)
    }

    /// The parser allows any character in an anchor name; libyaml allows letters, digits, `_` and
    /// `-`.
    fn anchor_name(&mut self, anchor: usize) -> Result<(), Malformed> {
        if anchor == 0 {
            return Ok(());
        }
        let (event, span) = self.next()?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        match event {
            Event::Anchor(_, name) if name.bytes().all(allowed) => Ok(()),
            _ => Err(Malformed::new(Some(place(span.start)), NOT_YAML)),
        }
    }

    fn collection(
        &mut self,
        style: StructureStyle,
        read: impl FnOnce(&mut Self) -> Result<Value, Malformed>,
    ) -> Result<Value, Malformed> {
        let flow = usize::from(style == StructureStyle::Flow);
        self.flow += flow;
        let value = read(self)?;
        self.flow -= flow;
        Ok(value)
    }

    fn ends(&mut self, end: fn(&Event<'_>) -> bool) -> bool {
        let next = self
            .events
            .next_if(|event| matches!(event, Ok((event, _)) if end(event)));
        next.is_some()
    }

    fn list(&mut self, depth: usize) -> Result<Value, Malformed> {
        let mut elements = Vec::new();
        while !self.ends(|event| matches!(event, Event::SequenceEnd)) {
            elements.push(self.node(depth)?);
        }
        Ok(Value::List(elements))
    }

    fn map(&mut self, depth: usize) -> Result<Value, Malformed> {
        let mut entries = Vec::new();
        while !self.ends(|event| matches!(event, Event::MappingEnd)) {
            let merge = matches!(
                self.events.peek(),
                Some(Ok((Event::Scalar(text, ScalarStyle::Plain, _, None), _))) if text == "<<"
            );
            let Node { at, value } = self.node(depth)?;
            if merge {
                let merged = self.node(depth)?;
                merge_into(&mut entries, merged, true)?;
                continue;
            }
            let name = match value {
                Value::Text(name) => Some(name),
                Value::Bool | Value::Number(_) => None,
                Value::Null | Value::List(_) | Value::Map(_) => {
                    return Err(Malformed::new(at, "a key that is no text"));
                }
            };
            entries.push((Key { at, name }, self.node(depth)?));
        }
        Ok(Value::Map(entries))
    }
}

/// `<<` adds the entries of one map, or of several. Repeated keys are rejected later.
fn merge_into(
    entries: &mut Vec<(Key, Node)>,
    merged: Node,
    several: bool,
) -> Result<(), Malformed> {
    match merged.value {
        Value::Map(merged) => entries.extend(merged),
        Value::List(maps) if several => {
            for map in maps {
                merge_into(entries, map, false)?;
            }
        }
        _ => return Err(Malformed::new(merged.at, "a merge key (<<) without a map")),
    }
    Ok(())
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::List(elements) => 1 + elements.iter().map(size).sum::<usize>(),
        Value::Map(entries) => {
            1 + entries
                .iter()
                .map(|(_, node)| 1 + size(node))
                .sum::<usize>()
        }
        Value::Null | Value::Bool | Value::Number(_) | Value::Text(_) => 1,
    }
}

/// Drops the parser's own message, because it may quote the file.
fn malformed(error: &ScanError) -> Malformed {
    let rule = match error.kind() {
        ErrorKind::UnknownAnchor => "an alias without its anchor",
        _ => NOT_YAML,
    };
    Malformed::new(Some(place(*error.marker())), rule)
}

fn place(marker: Marker) -> At {
    At {
        line: number(marker.line()),
        column: number(marker.col().saturating_add(1)),
    }
}

/// Position of a byte.
fn place_of(text: &str, index: usize) -> At {
    let before = text.get(..index).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    At {
        line: number(before.matches('\n').count() + 1),
        column: number(line.chars().count() + 1),
    }
}

fn number(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// The first character rejected by libyaml.
fn control_character(text: &str) -> Option<At> {
    let refused = |c: char| {
        c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}')
            || matches!(c, '\u{fffe}' | '\u{ffff}')
    };
    text.find(refused).map(|index| place_of(text, index))
}

/// A text in two forms with the same offsets.
struct Source {
    /// Original text, except for a space before each comment.
    written: Zeroizing<String>,
    /// Rewritten text. The parser accepts it if libyaml accepts the original.
    read: Zeroizing<String>,
}

/// Limit of the changes to a file.
const MAX_CHANGES: usize = 64;

impl Source {
    /// libyaml allows a comment directly after another token, and tabs at the start of a line in a
    /// flow collection.
    fn new(text: String) -> Self {
        let read = Zeroizing::new(text.clone());
        let written = Zeroizing::new(text);
        let mut source = Self { written, read };
        for _ in 0..MAX_CHANGES {
            let mut tokens = Scanner::with_options(StrInput::new(&source.read), dialect());
            let Some(error) = tokens.find_map(Result::err) else {
                break;
            };
            source = match (error.kind(), error.marker().byte_offset()) {
                (ErrorKind::CommentNotSeparated, Some(at)) => Self {
                    written: with_space(&source.written, at),
                    read: with_space(&source.read, at),
                },
                // In a block collection, the check of the original text rejects such a tab.
                (ErrorKind::TabInBlockIndentation, _) => Self {
                    read: with_spaces_for_tabs(&source.read),
                    ..source
                },
                _ => break,
            };
        }
        source
    }
}

fn with_space(text: &str, at: usize) -> Zeroizing<String> {
    let (before, after) = text.split_at_checked(at).unwrap_or((text, ""));
    Zeroizing::new(format!("{before} {after}"))
}

/// Replaces the tabs at the start of every line with spaces.
fn with_spaces_for_tabs(text: &str) -> Zeroizing<String> {
    let mut changed = Zeroizing::new(String::with_capacity(text.len()));
    for line in text.split_inclusive('\n') {
        let content = line.trim_start_matches([' ', '\t']);
        let blanks = line.len() - content.len();
        changed.extend(std::iter::repeat_n(' ', blanks));
        changed.push_str(content);
    }
    changed
}

/// The first token of the first document rejected by libyaml: an unknown directive, or a tab in a
/// place for spaces. Such places are in a block collection before the first token of a line, and
/// after `-` and `?`.
fn refused_token(source: &Source) -> Option<At> {
    let mut state = Blanks {
        text: &source.written,
        end: 0,
        flow: 0,
        allowed: true,
        plain: None,
        indents: Vec::new(),
    };
    let mut started = false;
    for token in Scanner::with_options(StrInput::new(&source.read), dialect()) {
        // The parser reports errors of the scanner.
        let token = token.ok()?;
        let span = token.span();
        let range = span.byte_range()?;
        let before = state.end..range.start;
        let kind = token.token_type();
        match kind {
            TokenType::BlockSequenceStart | TokenType::BlockMappingStart => {
                state.indents.push(span.start.col());
                continue;
            }
            TokenType::BlockEnd => {
                state.indents.pop();
                continue;
            }
            // The token of a single-line key is emitted after its colon.
            TokenType::Key if !state.text.get(range.start..)?.starts_with('?') => continue,
            TokenType::StreamStart => continue,
            TokenType::ReservedDirective(..) => return Some(place(span.start)),
            _ => {}
        }
        let tab = state.tab(before, false);
        let ends = matches!(kind, TokenType::DocumentStart | TokenType::DocumentEnd);
        if tab.is_some() || started && ends {
            return tab;
        }
        started |= !matches!(
            kind,
            TokenType::VersionDirective(..) | TokenType::TagDirective(..)
        );
        match kind {
            TokenType::FlowSequenceStart | TokenType::FlowMappingStart => state.flow += 1,
            TokenType::FlowSequenceEnd | TokenType::FlowMappingEnd => {
                state.flow = state.flow.saturating_sub(1);
            }
            _ => {}
        }
        state.allowed = matches!(kind, TokenType::BlockEntry | TokenType::Key);
        state.plain = None;
        if let TokenType::Scalar(ScalarStyle::Plain, _) = kind {
            state.plain = Some(state.indents.last().map_or(0, |column| column + 1));
            if let Some(tab) = state.tab(range.clone(), true) {
                return Some(tab);
            }
        }
        state.end = state.end.max(range.end);
    }
    None
}

/// Blanks between two tokens.
struct Blanks<'a> {
    text: &'a str,
    /// End of the last token, in bytes.
    end: usize,
    /// Number of open flow collections.
    flow: usize,
    /// Whether the last token may be followed by a key on the same line.
    allowed: bool,
    /// Indentation of the last token if it is a plain scalar, which the blanks may continue.
    plain: Option<usize>,
    /// Columns of the open block collections, from 0.
    indents: Vec<usize>,
}

impl Blanks<'_> {
    /// The first rejected tab in a range of blanks and comments, or `inside` a plain scalar.
    fn tab(&self, range: Range<usize>, inside: bool) -> Option<At> {
        let start = range.start;
        let mut plain = self.plain;
        // Whether a key could begin here.
        let mut fresh = self.allowed;
        let mut comment = false;
        // Column since the last line break of the range.
        let mut column = 0;

        for (index, c) in self.text.get(range)?.char_indices() {
            let refused = match plain {
                Some(indent) => column < indent,
                None => self.flow == 0,
            };
            match c {
                '\n' => {
                    (fresh, comment, column) = (true, false, 0);
                    continue;
                }
                '#' if !inside => (plain, comment) = (None, true),
                '\t' if refused && fresh && !comment => {
                    return Some(place_of(self.text, start + index));
                }
                ' ' | '\t' | '\r' => {}
                // Other characters occur only in the range of a plain scalar.
                _ if inside => fresh = false,
                _ => {}
            }
            column += 1;
        }
        None
    }
}
