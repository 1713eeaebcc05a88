//! Why a store could not be opened: one line that says what is wrong and what helps.

use std::fmt;
use std::path::PathBuf;

/// Why a store could not be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum OpenError {
    /// This program was built without that kind.
    #[cfg(not(feature = "sqlite"))]
    NotBuiltIn,
    /// Another process has it open.
    Locked { file: PathBuf, pid: Option<u32> },
    /// A later version of forebay has written it.
    Newer { file: PathBuf, version: i64, known: i64 },
    /// It is a file, or a database, of somebody else.
    Foreign { file: PathBuf },
    /// It is damaged.
    Damaged { file: PathBuf, detail: String },
    /// The folder it should be in is not there.
    NoFolder { folder: PathBuf },
    /// It is on a file system of another machine, whose locks and syncs cannot be relied on.
    Network { file: PathBuf, kind: &'static str },
    /// The system refuses.
    System { file: PathBuf, detail: String },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(not(feature = "sqlite"))]
            OpenError::NotBuiltIn => {
                write!(
                    f,
                    "this forebay was built without the feature \"sqlite\"; set [store] url = \"sqlite::memory:\""
                )
            }
            OpenError::Locked { file, pid: Some(pid) } => {
                write!(
                    f,
                    "the store {} is in use by process {pid}; stop that one, or name another file",
                    file.display()
                )
            }
            OpenError::Locked { file, pid: None } => {
                write!(
                    f,
                    "the store {} is in use by another process; stop that one, or name another file",
                    file.display()
                )
            }
            OpenError::Newer { file, version, known } => write!(
                f,
                "the store {} has format {version}, and this forebay knows those up to {known}; run the later version",
                file.display()
            ),
            OpenError::Foreign { file } => {
                write!(
                    f,
                    "{} is there and is no store of forebay's, or not recognisable as one; it was left alone, name another file",
                    file.display()
                )
            }
            OpenError::Damaged { file, detail } => {
                let file = file.display();
                write!(
                    f,
                    "the store {file} is damaged ({detail}); it was left alone. To save what can be read: \
                     sqlite3 '{file}' .recover | sqlite3 '{file}.saved', then put that in its place"
                )
            }
            OpenError::NoFolder { folder } => {
                write!(f, "the store's folder {} is not there; create it", folder.display())
            }
            OpenError::Network { file, kind } => write!(
                f,
                "the store {} is on a network file system ({kind}), which cannot keep its promises; name a file on a local disk",
                file.display()
            ),
            OpenError::System { file, detail } => write!(f, "the store {} cannot be opened: {detail}", file.display()),
        }
    }
}

impl std::error::Error for OpenError {}
