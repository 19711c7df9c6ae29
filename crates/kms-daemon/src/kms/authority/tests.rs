use std::{fs, io, os::unix::fs::PermissionsExt as _, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode, uri::Authority};
use kms_node::config::Limits;
use proptest::prelude::*;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::*;
use crate::kms::{
    clients::Clients,
    socket::{Connection, Socket, SocketSettings},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 0x01;
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];
/// With incremental indexing, without indexing, never indexed.
const LITERALS: [u8; 3] = [0x40, 0x00, 0x10];
const PATH: &str = "%2Frun%2Fkms%20v2.sock";
const REPAIRED: &str = ".2Frun.2Fkms.20v2.sock";
/// `:method: POST`, `:scheme: http` and a `:path`.
const REQUEST: &[u8] = b"\x83\x86\x04\x1f/v2.KeyManagementService/Status";

/// RFC 7541 appendix B: for each length the symbols in the order of their codes.
const SYMBOLS: [(u8, &str); 11] = [
    (5, "012aceiost"),
    (6, " %-./3456789=A_bdfghlmnpru"),
    (7, ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, "&*,;XZ"),
    (10, "!\"()?"),
    (11, "'+|"),
    (12, "#>"),
    (13, "\0$@[]~"),
    (14, "^}"),
    (15, "<`{"),
    (19, "\\"),
];

fn code(symbol: char) -> (u8, u32) {
    let (mut code, mut before) = (0, 5);
    for (length, symbols) in SYMBOLS {
        code <<= length - before;
        before = length;
        for found in symbols.chars() {
            if found == symbol {
                return (length, code);
            }
            code += 1;
        }
    }
    panic!("no code for {symbol:?}");
}

fn plain(text: &str) -> Vec<u8> {
    let mut bytes = number(0, 7, text.len());
    bytes.extend(text.bytes());
    bytes
}

fn huffman(text: &str) -> Vec<u8> {
    let mut bits = String::new();
    for symbol in text.chars() {
        let (length, code) = code(symbol);
        bits += &format!("{code:0length$b}", length = usize::from(length));
    }
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    let mut bytes = number(0x80, 7, bits.len() / 8);
    for at in (0..bits.len()).step_by(8) {
        bytes.push(u8::from_str_radix(&bits[at..at + 8], 2).unwrap());
    }
    bytes
}

/// An integer with `flags` above its prefix (RFC 7541 section 5.1).
fn number(flags: u8, prefix: u32, value: usize) -> Vec<u8> {
    let mask = 2_usize.pow(prefix) - 1;
    if value < mask {
        return vec![flags | u8::try_from(value).unwrap()];
    }
    let mut bytes = vec![flags | u8::try_from(mask).unwrap()];
    let mut rest = value - mask;
    while rest >= 0x80 {
        bytes.push(u8::try_from(rest % 0x80).unwrap() | 0x80);
        rest /= 0x80;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

fn literal(kind: u8, name: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = number(kind, if kind == 0x40 { 6 } else { 4 }, name);
    bytes.extend(value);
    bytes
}

fn named(kind: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[kind][..], name, value].concat()
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [0, length[0], length[1], kind, flags, 0, 0, 0, stream];
    [&head[..], payload].concat()
}

fn headers(stream: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
}

fn start(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frames.concat()].concat()
}

fn pass(bytes: &[u8], chunk: usize) -> Vec<u8> {
    let mut passed = bytes.to_vec();
    let mut repair = AuthorityRewriter::new();
    passed.chunks_mut(chunk).for_each(|part| repair.pass(part));
    passed
}

#[track_caller]
fn assert_passes(sent: &[u8], expected: &[u8]) {
    for chunk in 1..=sent.len() {
        assert_eq!(pass(sent, chunk), expected, "in reads of {chunk} bytes");
    }
}

/// A request with an authority in each kind of literal, plain and Huffman-coded.
fn every_literal(authority: &str) -> Vec<u8> {
    let mut block = number(0x20, 5, 4000);
    block.extend(REQUEST);
    for kind in LITERALS {
        block.extend(literal(kind, AUTHORITY, &plain(authority)));
        block.extend(named(kind, &plain("note"), &plain("100%")));
        block.extend(literal(kind, AUTHORITY, &huffman(authority)));
        block.extend(literal(kind, AUTHORITY, &plain("")));
        block.extend(literal(kind, 62, &huffman("100%")));
        block.extend(literal(kind, 300, &plain(&"%".repeat(200))));
        block.extend([0xbe, 0xff, 0x12]);
    }
    block
}

#[test]
fn a_path_is_repaired_in_every_kind_of_literal() {
    assert_passes(
        &start(&[headers(1, &every_literal(PATH))]),
        &start(&[headers(1, &every_literal(REPAIRED))]),
    );
}

#[test]
fn padding_and_priority_are_no_part_of_the_block() {
    // As padding and priority, each of these would be the beginning of an authority.
    let decoy = literal(0x40, AUTHORITY, &plain("%2F"));
    let request = |authority| {
        let block = every_literal(authority);
        let priority = &decoy[..PRIORITY_BYTES];
        let length = &[u8::try_from(decoy.len()).unwrap()][..];
        let flags = END_HEADERS | PADDED | PRIORITY;
        start(&[
            frame(
                HEADERS,
                END_HEADERS | PRIORITY,
                1,
                &[priority, &block].concat(),
            ),
            frame(
                HEADERS,
                END_HEADERS | PADDED,
                3,
                &[length, &block, &decoy].concat(),
            ),
            frame(
                HEADERS,
                flags,
                5,
                &[length, priority, &block, &decoy].concat(),
            ),
            frame(HEADERS, flags, 7, &[&[0], priority, &block[..]].concat()),
        ])
    };
    assert_passes(&request(PATH), &request(REPAIRED));
}

#[test]
fn a_block_may_be_cut_anywhere_by_continuations() {
    let cut = |authority, at: usize| {
        let block = every_literal(authority);
        let (first, rest) = block.split_at(at);
        let (second, third) = rest.split_at(rest.len() / 2);
        start(&[
            frame(HEADERS, 0, 1, first),
            frame(CONTINUATION, 0, 1, second),
            frame(CONTINUATION, END_HEADERS, 1, third),
            frame(DATA, 1, 1, b"\x41\x03%2F"),
            headers(3, &block),
        ])
    };
    for at in 0..every_literal(PATH).len() {
        assert_eq!(pass(&cut(PATH, at), usize::MAX), cut(REPAIRED, at));
        assert_eq!(pass(&cut(PATH, at), 1), cut(REPAIRED, at));
    }
}

#[test]
fn only_authorities_are_touched() {
    let authority = literal(0x40, AUTHORITY, &plain(PATH));
    let sent = start(&[
        frame(DATA, 0, 1, &headers(1, &authority)),
        frame(0xfa, 0xff, 1, &authority),
        headers(1, &named(0x40, &plain(":authority"), &plain(PATH))),
        headers(3, &literal(0x40, 4, &huffman(PATH))),
        headers(5, &literal(0x40, AUTHORITY, &huffman("localhost"))),
    ]);
    assert_passes(&sent, &sent);
}

#[test]
fn what_is_not_understood_ends_the_repair() {
    let request = headers(1, &every_literal(PATH));
    let endless = [&[0x7f, 0xff, 0xff, 0xff, 0xff][..], &request].concat();
    let ends = [
        frame(CONTINUATION, END_HEADERS, 1, &[]),
        [frame(HEADERS, 0, 1, &[]), frame(DATA, 0, 1, &[])].concat(),
        [frame(HEADERS, 0, 1, &[]), frame(HEADERS, 0, 1, &[])].concat(),
        frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0; 4]),
        frame(HEADERS, END_HEADERS | PADDED, 1, &[9; 9]),
        headers(1, &endless),
        headers(1, &literal(0x40, AUTHORITY, &huffman("a\\b"))),
    ];
    for end in ends {
        let sent = start(&[end, request.clone()]);
        assert_passes(&sent, &sent);
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_passed_alike_in_any_reads_and_repaired_once(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        payload in prop::collection::vec(any::<u8>(), 0..300),
        flags: u8,
        chunk in 1_usize..40,
    ) {
        let sent = start(&[frame(HEADERS, flags, 1, &payload), bytes]);
        let passed = pass(&sent, usize::MAX);
        prop_assert_eq!(&pass(&sent, chunk), &passed);
        prop_assert_eq!(pass(&passed, chunk), passed);
    }

    #[test]
    fn a_stream_without_an_authority_passes_as_it_is(
        fields in prop::collection::vec(
            (prop::sample::select(&LITERALS), prop_oneof![Just(0), 2_usize..400], "[ -\\[\\]-z]{0,40}", any::<bool>()),
            0..20,
        ),
        chunk in 1_usize..40,
    ) {
        let frames: Vec<_> = fields.iter().map(|(kind, name, value, coded)| {
            let value = if *coded { huffman(value) } else { plain(value) };
            headers(1, &match name {
                0 => named(*kind, &huffman(":authority"), &value),
                name => literal(*kind, *name, &value),
            })
        }).collect();
        let sent = start(&frames);
        prop_assert_eq!(pass(&sent, chunk), sent);
    }

    #[test]
    fn an_authority_that_is_valid_stays_valid(authority in "[a%:@.\\[\\]-]{1,12}") {
        let sent = start(&[headers(1, &literal(0, AUTHORITY, &plain(&authority)))]);
        let passed = pass(&sent, 7);
        if Authority::try_from(authority.as_str()).is_ok() {
            let value = &passed[passed.len() - authority.len()..];
            prop_assert!(Authority::try_from(value).is_ok(), "{value:?}");
        }
    }
}

/// Answers every request accepted by h2 with its authority and its `note` header.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    let mut requests = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = requests.accept().await {
        let authority = request.uri().authority().unwrap().to_string();
        let note = request
            .headers()
            .get("note")
            .map(|note| note.as_bytes().to_vec());
        let body = [authority.into_bytes(), note.unwrap_or_default()].join(&b' ');
        let head = Response::builder().status(StatusCode::OK).body(()).unwrap();
        let mut send = respond.send_response(head, false).unwrap();
        send.send_data(Bytes::from(body), true).unwrap();
    }
}

/// The result of each stream: the text of the response, or the code of the reset.
async fn ask(mut stream: UnixStream, sent: &[u8], streams: usize) -> Vec<Result<String, [u8; 4]>> {
    stream.write_all(sent).await.unwrap();
    let mut outcomes = Vec::new();
    while outcomes.len() < streams {
        let mut head = [0; HEAD_BYTES];
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        stream.read_exact(&mut payload).await.unwrap();
        match head[3] {
            DATA => outcomes.push(Ok(String::from_utf8(payload).unwrap())),
            RST_STREAM => outcomes.push(Err(payload.try_into().unwrap())),
            _ => {}
        }
    }
    outcomes
}

/// Sends the same bytes to h2 on our socket, and on one without the rewriter.
async fn ask_h2(sent: &[u8], streams: usize) -> [Vec<Result<String, [u8; 4]>>; 2] {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o750)).unwrap();
    let ours = SocketSettings {
        path: directory.path().join("kms.sock"),
        mode: 0o600,
        gid: rustix::process::getegid().as_raw(),
    };
    let socket = Socket::bind(&ours).await.unwrap();
    let limits = Limits {
        status: 1,
        encrypt: 1,
        decrypt: 1,
    };
    let client = Clients::new(1, limits).enter();
    let bare = directory.path().join("bare.sock");
    let listener = UnixListener::bind(&bare).unwrap();
    tokio::spawn(async move {
        answer(Connection::new(socket.accept().await?, client)).await;
        io::Result::Ok(())
    });
    tokio::spawn(async move {
        answer(listener.accept().await?.0).await;
        io::Result::Ok(())
    });
    let both = async {
        [
            ask(
                UnixStream::connect(&ours.path).await.unwrap(),
                sent,
                streams,
            )
            .await,
            ask(UnixStream::connect(&bare).await.unwrap(), sent, streams).await,
        ]
    };
    timeout(Duration::from_secs(20), both).await.unwrap()
}

fn request(fields: &[Vec<u8>]) -> Vec<u8> {
    [REQUEST, &fields.concat()].concat()
}

#[tokio::test]
async fn h2_answers_a_path_that_it_refuses_without_repair() {
    for kind in LITERALS {
        for value in [plain(PATH), huffman(PATH)] {
            let block = request(&[literal(kind, AUTHORITY, &value)]);
            let [ours, bare] = ask_h2(&start(&[headers(1, &block)]), 1).await;
            assert_eq!(ours, [Ok(format!("{REPAIRED} "))]);
            assert_eq!(bare, [Err(PROTOCOL_ERROR)]);
        }
    }
}

#[tokio::test]
async fn an_index_means_the_same_to_client_and_h2_while_entries_come_and_go() {
    let note = |value| named(0x40, &plain("note"), &huffman(value));
    let size = |entries: &[usize]| number(0x20, 5, entries.iter().sum::<usize>());
    let (authority, first, second) = (32 + 10 + PATH.len(), 32 + 4 + 5, 32 + 4 + 6);
    let path = literal(0x40, AUTHORITY, &huffman(PATH));
    let indexed = |index: usize| number(0x80, 7, 61 + index);
    let sent = start(&[
        headers(
            1,
            &[size(&[authority, first]), request(&[path, note("first")])].concat(),
        ),
        headers(3, &request(&[indexed(2), indexed(1)])),
        // The table is full, so this evicts the authority.
        headers(5, &request(&[indexed(2), note("second")])),
        headers(
            7,
            &[
                size(&[first, second]),
                request(&[literal(0, AUTHORITY, &plain(PATH)), indexed(1)]),
            ]
            .concat(),
        ),
        headers(
            9,
            &request(&[literal(0, AUTHORITY, &plain(PATH)), indexed(2)]),
        ),
    ]);
    let [ours, _] = ask_h2(&sent, 5).await;
    let expected = ["first", "first", "second", "second", "first"];
    assert_eq!(ours, expected.map(|note| Ok(format!("{REPAIRED} {note}"))));
}

#[tokio::test]
async fn h2_reads_every_symbol_of_an_authority_after_a_repair_as_it_was_sent() {
    let symbols = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:";
    let authorities: Vec<String> = symbols.chars().map(|c| format!("%2F{c}x%2F")).collect();
    let frames: Vec<_> = (0_u8..)
        .zip(&authorities)
        .map(|(number, authority)| {
            headers(
                2 * number + 1,
                &request(&[literal(0, AUTHORITY, &huffman(authority))]),
            )
        })
        .collect();
    let [mut ours, bare] = ask_h2(&start(&frames), frames.len()).await;
    let mut expected: Vec<_> = authorities
        .iter()
        .map(|sent| Ok(sent.replace('%', ".") + " "))
        .collect();
    expected.sort();
    ours.sort();
    assert_eq!(ours, expected);
    assert!(bare.iter().all(|outcome| *outcome == Err(PROTOCOL_ERROR)));
}
