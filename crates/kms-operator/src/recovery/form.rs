//! Detects the format of a file given as an etcd snapshot, from its first bytes. Another format is
//! no evidence of damage, so errors name the format only.

use std::{fmt, fs::File, io, path::Path};

use kms_node::{
    advice::{Found, snapshot},
    report::shell,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Unpacked by this program.
    Gzip,
    /// Unpacked by this program.
    Zip,
    /// Unpacked by this program.
    Zstd,
    /// Unpacked by this program.
    Tar,
    Xz,
    Bzip2,
    Lz4,
    Lzip,
    SevenZip,
    Rar,
    /// Encrypted with age.
    Age,
    /// Encrypted with GnuPG or another OpenPGP program.
    OpenPgp,
    /// Encrypted with `openssl enc`.
    OpenSsl,
    /// From `bao operator raft snapshot save`.
    RaftSnapshot,
    /// bbolt, such as an etcd snapshot given as another file.
    Database,
    /// SQLite, the datastore of k3s without embedded etcd.
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

/// Magic numbers at the start of a file.
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
    // First packet of an encrypted OpenPGP message: a session key, encrypted with a public key or a
    // passphrase.
    (b"\x84\x5e\x03", Form::OpenPgp),
    (b"\x85\x01\x0c\x03", Form::OpenPgp),
    (b"\x85\x02\x0c\x03", Form::OpenPgp),
    (b"\x8c\x0d\x04", Form::OpenPgp),
    (b"\xc1\xc0", Form::OpenPgp),
    (b"\xc3\x0d\x04", Form::OpenPgp),
];
/// Range of the magic in a tar header, in all formats since POSIX.1-1988.
const USTAR: std::ops::Range<usize> = 257..262;
/// Number of leading bytes examined for text.
const TEXT: usize = 512;

impl Form {
    /// Form of anything but a regular file.
    pub(super) fn of_kind(file: &File) -> io::Result<Option<Self>> {
        let kind = file.metadata()?.file_type();
        Ok(match (kind.is_file(), kind.is_dir()) {
            (true, _) => None,
            (_, true) => Some(Self::Directory),
            (_, false) => Some(Self::Special),
        })
    }

    /// Detects the format from `head`, the start of a file or a whole shorter file.
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
        // A skippable frame with user data, which zstd allows before other frames.
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

    /// Cause of the refusal of this file as an etcd snapshot.
    #[must_use]
    pub fn cause(self, path: &Path) -> Found {
        let unpack = self.unpack(path).map(|command| ("unpack", command));
        let value = unpack.unwrap_or_else(|| match self {
            Self::Directory => ("database", shell(&path.join("member/snap/db"))),
            Self::RaftSnapshot => ("raft", shell(path)),
            Self::Sqlite => ("sqlite", shell(path)),
            Self::Special => ("special", shell(path)),
            _ => ("wrong", shell(path)),
        });
        (&snapshot::WRONG_FILE, vec![value])
    }

    /// Command that unpacks or decrypts the file.
    fn unpack(self, path: &Path) -> Option<String> {
        let file = shell(path);
        let command = match self {
            Self::Gzip => "gzip -dk",
            Self::Zip => "unzip",
            Self::Zstd => "zstd -d --long=31",
            Self::Tar => "tar -xf",
            Self::Xz => "xz -dk",
            Self::Bzip2 => "bzip2 -dk",
            Self::Lz4 => "lz4 -dk",
            Self::Lzip => "lzip -dk",
            Self::SevenZip => "7z x",
            Self::Rar => "unrar x",
            Self::Age => "age -d -i IDENTITY -o etcd.db",
            Self::OpenPgp => "gpg -o etcd.db -d",
            // With the options of its encryption.
            Self::OpenSsl => "openssl enc -d OPTIONS -out etcd.db -in",
            Self::RaftSnapshot
            | Self::Database
            | Self::Sqlite
            | Self::Markup
            | Self::Text
            | Self::Empty
            | Self::Directory
            | Self::Special => return None,
        };
        Some(format!("{command} {file}"))
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
        // The end of the head splits the last character.
        let long = [vec![b'x'; TEXT - 1], "ü".into()].concat();
        assert_eq!(Form::of(&long), Some(Form::Text));
    }

    #[test]
    fn a_command_takes_the_path_as_one_word() {
        let command = Form::Xz.unpack(Path::new("/backup/etcd 1.xz"));
        assert_eq!(command.as_deref(), Some("xz -dk '/backup/etcd 1.xz'"));
    }
}
