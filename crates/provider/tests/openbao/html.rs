//! `--html`: the pages of real results, as files and in a browser.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use flate2::read::ZlibDecoder;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    corpus::Corpus,
    node::{Node, TIMING},
    provider::Provider,
};

/// A node and an etcd with objects under two versions of its key.
struct Scene {
    node: Node,
    provider: Provider,
    corpus: Corpus,
    snapshot: PathBuf,
}

impl Scene {
    async fn new() -> Self {
        let node = Node::new(TIMING).await;
        let provider = node.serve().await;
        let corpus = Corpus::of(&node, &provider).await;
        Self {
            snapshot: corpus.snapshot("etcd.db"),
            node,
            provider,
            corpus,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.corpus.directory.path().join(name)
    }

    /// Runs a command, whose page must have the verdict and the headline of its text.
    fn page(&self, command: &[&str], code: i32) -> PathBuf {
        let path = self.path(&format!("{}.html", command[0]));
        let html = ["--html", path.to_str().unwrap()];
        let finished = self.node.run(&[command, &html].concat());
        assert_eq!(
            finished.code,
            Some(code),
            "{}{}",
            finished.out,
            finished.err
        );
        assert!(!finished.out.contains("--html"), "{}", finished.out);
        let page = fs::read_to_string(&path).unwrap();
        let mut lines = finished.out.lines();
        for tag in ["h1", "p"] {
            let line = lines.next().unwrap();
            let element = format!("<{tag}>{line}</{tag}>");
            assert!(page.contains(&element), "{element} in {page}");
        }
        path
    }

    fn verify_backup(&self) -> PathBuf {
        let snapshot = self.snapshot.to_str().unwrap();
        self.page(&["verify-backup", "--etcd-snapshot", snapshot], 0)
    }
}

#[track_caller]
fn assert_shown(page: &Path, parts: &[&str]) {
    let page = fs::read_to_string(page).unwrap();
    for part in parts {
        assert!(page.contains(part), "{part} in {page}");
    }
}

#[tokio::test]
async fn the_page_of_each_command_shows_resources_or_nodes_by_version() {
    let scene = Scene::new().await;
    let snapshot = scene.snapshot.to_str().unwrap();
    let versions = [
        "<th scope=\"col\">version 1</th><th scope=\"col\">version 2</th>",
        "version 1 of the key created",
        "version 2 of the key created",
        "this result",
    ];
    let secrets = |first: &str, second: &str| {
        format!("<th scope=\"row\">secrets</th><td>{first}</td><td>{second}</td>")
    };
    let [good, odd] = ["good", "odd"]
        .map(|class| move |text: &str| format!("<span class=\"{class}\">{text}</span>"));

    let page = scene.verify_backup();
    assert_shown(&page, &versions);
    assert_shown(&page, &[&secrets(&good("2 readable"), &good("2 readable"))]);
    let page = scene.page(&["scan-etcd", "--etcd-snapshot", snapshot], 0);
    assert_shown(&page, &versions);
    let plaintext = "<span class=\"bad\">1 plaintext</span>";
    assert_shown(
        &page,
        &[&secrets(&good("2 derived"), &good("2 derived")), plaintext],
    );
    let page = scene.page(&["verify-rotation", "--etcd-snapshot", snapshot], 4);
    assert_shown(&page, &versions);
    assert_shown(&page, &[&secrets(&odd("2 to rewrite"), &good("2 active"))]);

    let metrics = format!("a={}", scene.provider.metrics_url());
    let state = format!("b={}", scene.node.state_file().display());
    let page = scene.page(
        &["compare-nodes", "--metrics", &metrics, "--state", &state],
        5,
    );
    assert_shown(
        &page,
        &["<th scope=\"row\">a</th>", &good("active"), "active on b"],
    );
}

#[tokio::test]
async fn a_page_is_a_new_file_and_the_result_is_printed_all_the_same() {
    let scene = Scene::new().await;
    let page = scene.verify_backup();
    let mode = fs::metadata(&page).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);

    let before = fs::read(&page).unwrap();
    let snapshot = scene.snapshot.to_str().unwrap();
    let scan = |page: &Path| {
        let page = page.to_str().unwrap();
        let arguments = ["scan-etcd", "--etcd-snapshot", snapshot, "--html", page];
        scene
            .node
            .run(&[&arguments[..], &["--output", "json"]].concat())
    };
    let refused = scan(&page);
    assert_eq!(refused.code, Some(1));
    let result: Value = serde_json::from_str(&refused.out).unwrap();
    assert_eq!(result["cause"], "output_not_written");
    assert!(
        refused.err.contains("the HTML page was not written"),
        "{}",
        refused.err
    );
    assert_eq!(fs::read(&page).unwrap(), before);

    let refused = scan(&scene.path("none/page.html"));
    assert_eq!(refused.code, Some(1));
    let result: Value = serde_json::from_str(&refused.out).unwrap();
    assert_eq!(result["verdict"], "complete");
    assert!(
        refused.err.contains("the HTML page was not written"),
        "{}",
        refused.err
    );
}

/// The Debian package `chromium`.
const BROWSER: &str = "chromium";

fn browser(profile: &Path, page: &Path, options: &[&str]) -> [String; 2] {
    let output = assert_cmd::Command::new(BROWSER)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ])
        .args(["--enable-logging=stderr", "--window-size=1200,1600"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(options)
        .arg(format!("file://{}", page.display()))
        .env("HOME", profile)
        .timeout(Duration::from_secs(120))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let [out, err] = [text(output.stdout), text(output.stderr)];
    assert!(output.status.success(), "{err}");
    assert!(!err.contains("Content Security Policy"), "{err}");
    [out, err]
}

/// The decompressed rows of a PNG.
fn rows(png: &[u8]) -> Vec<u8> {
    let (mut data, mut rest) = (Vec::new(), &png[8..]);
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes(head[..4].try_into().unwrap());
        let (content, after) = after.split_at(usize::try_from(length).unwrap());
        if &head[4..] == b"IDAT" {
            data.extend_from_slice(content);
        }
        rest = &after[4..];
    }
    let mut rows = Vec::new();
    ZlibDecoder::new(&*data).read_to_end(&mut rows).unwrap();
    rows
}

#[tokio::test]
async fn a_browser_shows_the_page_in_both_schemes() {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&paths).any(|path| path.join(BROWSER).exists()) {
        eprintln!("skipped: there is no {BROWSER}; install the Debian package of this name");
        return;
    }
    let scene = Scene::new().await;
    let page = scene.verify_backup();
    let profile = TempDir::new().unwrap();
    let [dom, _] = browser(profile.path(), &page, &["--dump-dom"]);
    for shown in [
        "<h1>verify-backup: compatible</h1>",
        "2 readable",
        "1 readable",
        "this result",
    ] {
        assert!(dom.contains(shown), "{shown} in {dom}");
    }

    let screenshots = ["1", "0"].map(|scheme| {
        let png = scene.path(&format!("{scheme}.png"));
        let shot = format!("--screenshot={}", png.display());
        let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
        browser(profile.path(), &page, &[&shot, &scheme]);
        rows(&fs::read(png).unwrap())
    });
    let [light, dark] = screenshots.each_ref().map(|rows| {
        // A blank page has about three values: its colour, and the differences between pixels.
        let mut counts = [0_u64; 256];
        rows.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        counts.iter().filter(|count| **count > 10).count()
    });
    assert!(light > 50 && dark > 50, "{light} and {dark} byte values");
    let [light, dark] = screenshots;
    assert!(light != dark, "one screenshot for both schemes");
}
