//! Recognises the form of a file that was given as an etcd snapshot, by its first bytes. A file of
//! another form says nothing of the data: it is named, and never called damaged.

use std::{fmt, path::Path};

use crate::report::shell;

/// Form of a file that is no bbolt database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Read directly.
    Gzip,
    /// Read directly.
    Zip,
    /// Read directly.
    Zstd,
    /// Read directly.
    Tar,
    /// `xz`.
    Xz,
    /// `bzip2`.
    Bzip2,
    /// `lz4`.
    Lz4,
    /// `lzip`.
    Lzip,
    /// 7-Zip.
    SevenZip,
    /// RAR.
    Rar,
    /// Encrypted with age.
    Age,
    /// Encrypted with GnuPG or another OpenPGP program.
    OpenPgp,
    /// Encrypted with `openssl enc`.
    OpenSsl,
    /// What `bao operator raft snapshot save` writes.
    RaftSnapshot,
    /// bbolt: an etcd snapshot where something else was asked for.
    Database,
    /// SQLite, which k3s uses unless it has embedded etcd.
    Sqlite,
    /// HTML or XML, such as the error page of a proxy or of an object store.
    Markup,
    /// Any other text.
    Text,
    /// Zero bytes.
    Empty,
    /// A directory, such as etcd's data directory.
    Directory,
    /// A pipe, a socket or a device.
    Special,
}

/// Numbers that a form begins with.
const MAGIC: [(&[u8], Form); 21] = [
    (b"\x1f\x8b", Form::Gzip),
    (b"PK\x03\x04", Form::Zip),
    (b"PK\x05\x06", Form::Zip),
    (b"\x28\xb5\x2f\xfd", Form::Zstd),
    (b"\xfd7zXZ\0", Form::Xz),
    (b"BZh", Form::Bzip2),
    (b"\x04\x22\x4d\x18", Form::Lz4),
    (b"LZIP", Form::Lzip),
    (b"7z\xbc\xaf\x27\x1c", Form::SevenZip),
    (b"Rar!\x1a\x07", Form::Rar),
    (b"age-encryption.org/", Form::Age),
    (b"-----BEGIN AGE ENCRYPTED FILE-----", Form::Age),
    (b"-----BEGIN PGP MESSAGE-----", Form::OpenPgp),
    (b"Salted__", Form::OpenSsl),
    (b"SQLite format 3\0", Form::Sqlite),
    // The first packet of an encrypted OpenPGP message: a session key, for a public key or for a
    // passphrase.
    (b"\x84\x5e\x03", Form::OpenPgp),
    (b"\x85\x01\x0c\x03", Form::OpenPgp),
    (b"\x85\x02\x0c\x03", Form::OpenPgp),
    (b"\x8c\x0d\x04", Form::OpenPgp),
    (b"\xc1\xc0", Form::OpenPgp),
    (b"\xc3\x0d\x04", Form::OpenPgp),
];
/// Where a tar header has its name, in every dialect since POSIX.1-1988.
const USTAR: std::ops::Range<usize> = 257..262;
/// How much of a text is looked at.
const TEXT: usize = 512;

impl Form {
    /// The form of a file that begins with `head`, which is all of a shorter file.
    #[must_use]
    pub fn of(head: &[u8]) -> Option<Self> {
        if head.is_empty() {
            return Some(Self::Empty);
        }
        let magic = MAGIC.into_iter().find(|(magic, _)| head.starts_with(magic));
        if let Some((_, form)) = magic {
            return Some(form);
        }
        if head.get(USTAR).is_some_and(|name| name == b"ustar") {
            return Some(Self::Tar);
        }
        // zstd writes such a frame before others for data of its users.
        if matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) {
            return Some(Self::Zstd);
        }
        let text = head.get(..TEXT).unwrap_or(head);
        let is_text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~' | 0x80..);
        if !text.iter().all(is_text) {
            return None;
        }
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        match text.trim_ascii_start().first() {
            Some(b'<') => Some(Self::Markup),
            _ => std::str::from_utf8(text)
                .map_or_else(|error| error.error_len().is_none(), |_| true)
                .then_some(Self::Text),
        }
    }

    /// What helps with the file at `path`: a command that unpacks it where there is one.
    #[must_use]
    pub fn next_step(self, path: &Path) -> String {
        let file = shell(path);
        let unpack = |command: &str| format!("unpack it and name the result: {command} {file}");
        match self {
            Self::Gzip => unpack("gzip -dk"),
            Self::Zip => unpack("unzip"),
            Self::Zstd => unpack("zstd -d --long=31"),
            Self::Tar => unpack("tar -xf"),
            Self::Xz => unpack("xz -dk"),
            Self::Bzip2 => unpack("bzip2 -dk"),
            Self::Lz4 => unpack("lz4 -dk"),
            Self::Lzip => unpack("lzip -dk"),
            Self::SevenZip => unpack("7z x"),
            Self::Rar => unpack("unrar x"),
            Self::Age => {
                format!("decrypt it and name the result: age -d -i IDENTITY -o etcd.db {file}")
            }
            Self::OpenPgp => format!("decrypt it and name the result: gpg -o etcd.db -d {file}"),
            Self::OpenSsl => {
                "decrypt it with `openssl enc -d` and the options of its encryption".to_owned()
            }
            Self::RaftSnapshot => {
                "name the etcd snapshot of the set; this file belongs to --openbao-snapshot"
                    .to_owned()
            }
            Self::Database => "name it with --etcd-snapshot".to_owned(),
            Self::Sqlite => {
                "name an etcd snapshot; a k3s server with SQLite has no etcd".to_owned()
            }
            Self::Directory => format!(
                "name the snapshot in it, or the database of a stopped member: {}",
                shell(&path.join("member/snap/db"))
            ),
            Self::Special => "save its content to a file and name that file".to_owned(),
            Self::Markup | Self::Text | Self::Empty => {
                "copy the snapshot again from where it was saved, and compare its hash".to_owned()
            }
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "a gzip archive",
            Self::Zip => "a zip archive",
            Self::Zstd => "a zstd archive",
            Self::Tar => "a tar archive",
            Self::Xz => "an xz archive",
            Self::Bzip2 => "a bzip2 archive",
            Self::Lz4 => "an lz4 archive",
            Self::Lzip => "an lzip archive",
            Self::SevenZip => "a 7-Zip archive",
            Self::Rar => "a RAR archive",
            Self::Age => "a file encrypted with age",
            Self::OpenPgp => "a file encrypted with OpenPGP",
            Self::OpenSsl => "a file encrypted with openssl",
            Self::RaftSnapshot => "a raft snapshot of OpenBao",
            Self::Database => "a bbolt database, such as an etcd snapshot",
            Self::Sqlite => "an SQLite database",
            Self::Markup => "an HTML or XML page",
            Self::Text => "a text",
            Self::Empty => "an empty file",
            Self::Directory => "a directory",
            Self::Special => "a pipe or a device",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_told_by_its_first_bytes() {
        let mut tar = vec![b'x'; 100];
        tar.resize(257, 0);
        tar.extend(b"ustar  \0");
        tar.resize(512, 0);
        for (head, form) in [
            (&b""[..], Some(Form::Empty)),
            (b"\x1f\x8b\x08\0", Some(Form::Gzip)),
            (&tar, Some(Form::Tar)),
            (b"\x53\x2a\x4d\x18\x04\0\0\0", Some(Form::Zstd)),
            (b"\n <!DOCTYPE html>", Some(Form::Markup)),
            (b"\xef\xbb\xbf<?xml version=\"1.0\"?>", Some(Form::Markup)),
            (b"404 page not found\n", Some(Form::Text)),
            ("grün".as_bytes(), Some(Form::Text)),
            (b"gr\xfcn", None),
            (b"\0\0\0\0", None),
            (&[0x7f, b'E', b'L', b'F'], None),
        ] {
            assert_eq!(Form::of(head), form, "{head:?}");
        }
        // A character that the end of the head cuts in two.
        let long = [vec![b'x'; TEXT - 1], "ü".into()].concat();
        assert_eq!(Form::of(&long), Some(Form::Text));
    }

    #[test]
    fn a_command_takes_the_path_as_one_word() {
        let step = Form::Xz.next_step(Path::new("/backup/etcd 1.xz"));
        assert!(step.ends_with(": xz -dk '/backup/etcd 1.xz'"), "{step}");
    }
}
