//! The registry of error codes: each one once, with what it says.
//!
//! A code is four digits; the first is the exit code of the command (0: our bug, exit 70). A code
//! never changes its meaning and is never used again: scripts match on it. New ones go at the end
//! of their block of the table.

use crate::failure::Kind;
use std::fmt;

/// An error's number, printed as `E3104`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u16);

impl Code {
    /// The code of that number, if the registry knows it.
    pub fn of_number(number: u16) -> Option<Self> {
        REGISTRY.iter().map(|(code, _)| *code).find(|code| code.0 == number)
    }

    /// The code printed so, if the registry knows it.
    pub fn of_text(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('E').filter(|digits| digits.len() == 4)?;
        Self::of_number(digits.parse().ok()?)
    }

    /// The number, below 10 000.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The kind that its first digit stands for.
    pub const fn kind(self) -> Kind {
        match self.0 / 1000 {
            1 => Kind::No,
            2 => Kind::Usage,
            3 => Kind::NotFound,
            4 => Kind::Busy,
            5 => Kind::Denied,
            6 => Kind::Protected,
            7 => Kind::Damaged,
            8 => Kind::Unreachable,
            9 => Kind::Full,
            _ => Kind::Bug,
        }
    }

    /// What the registry says it means.
    pub fn meaning(self) -> &'static str {
        REGISTRY.iter().find(|(code, _)| *code == self).map_or("", |(_, meaning)| *meaning)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E{:04}", self.0)
    }
}

macro_rules! registry {
    ($($name:ident = $number:literal $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $name: Code = Code($number);)*
        /// Every code with its meaning, in ascending order.
        pub const REGISTRY: &[(Code, &str)] = &[$(($name, $meaning)),*];
    };
}

registry! {
    BUG = 1 "a fault of Strandline itself";
    UNEXPECTED_ANSWER = 2 "the server's answer has a form that this version cannot read";

    NO = 1001 "the answer is no";

    USAGE = 2001 "the command line is not understood";
    VOLUME_NAME = 2002 "this is no name of a volume or group";
    BRANCH_NAME = 2003 "this is no name of a branch";
    MARK_NAME = 2004 "this is no name of a mark";
    REMOTE_NAME = 2005 "this is no name of a remote store";
    REFERENCE = 2006 "this is no reference to a volume or instant";
    SIZE = 2007 "this is no size";
    DURATION = 2008 "this is no duration";
    ZONE = 2009 "this time zone is not known";
    TIME = 2011 "this is no time";
    TIME_AMBIGUOUS = 2012 "this local time happened twice";
    TIME_SKIPPED = 2013 "this local time never happened";
    TIME_RANGE = 2014 "this time is outside the years 1678 to 2262";
    ROUNDING = 2015 "this is no way to round an instant";
    SIZE_UNALIGNED = 2016 "a volume's size must be a multiple of its block";
    BAD_REQUEST = 2017 "the request to the control socket is not understood";
    INSTANT_WANTED = 2018 "the command needs an instant";
    INSTANT_UNWANTED = 2019 "the command takes a volume without an instant";
    CONFIG = 2020 "the configuration file is not understood";
    ADDRESS = 2021 "this is no address to listen at";
    IMAGE_FORMAT = 2022 "the file is no image of that format";
    FORMAT_AMBIGUOUS = 2023 "the format of an image must be said";
    IMAGE_UNSUPPORTED = 2024 "this kind of image is not read";
    IMAGE_UNFIT = 2025 "the file is nothing that can be an image";
    IMAGE_UNWRITABLE = 2026 "the disk cannot be written in that format, or not there";
    TARGET_IS_SOURCE = 2027 "the file to be written is one of those that are read";
    IMAGE_ALONE = 2028 "the image stands on no other";
    GUEST_PATH = 2030 "this is no path in a disk";
    GUEST_PATH_AMBIGUOUS = 2031 "several file systems of the disk have that path";
    GUEST_UNREAD = 2032 "the disk holds nothing there that is read file by file";
    NO_FOLDER = 2035 "a directory is wanted, and this is none";

    NO_STORE = 3001 "there is no store in this directory";
    NO_FILE = 3002 "a file or device that the command names does not exist";
    NO_IMAGE_PART = 3003 "a file or part that belongs to an image does not exist";
    NO_GUEST_FILE = 3005 "no file system of the disk has that path";
    NO_VOLUME = 3101 "the store has no such volume";
    NO_BRANCH = 3102 "the volume has no such branch";
    NO_INSTANT = 3104 "the volume has no such instant";
    TOO_OLD = 3105 "the instant is older than what the volume keeps";
    NOT_YET = 3106 "the instant lies after the present";
    THINNED = 3107 "the instant was thinned by the retention rule and --exact was given";
    NO_CLIENT = 3108 "there is no such client";
    NOT_IN_TRASH = 3109 "the trash holds no such volume";
    NO_KEY_SLOT = 3110 "the store has no such key slot";
    NOT_OPENED = 3111 "the instant is not opened";
    NO_SERVER = 3112 "no server runs for this store";
    NO_DEFAULT = 3113 "the store has several volumes and none was named";
    NO_BASE = 3114 "the volume stands on no foreign image";
    NO_GROUPS = 3201 "this version has no groups";
    NO_REMOTES = 3202 "this version reaches no other store";
    NO_ALARMS = 3203 "this version has no detection alarms";
    NO_SUCH_CALL = 3204 "the control socket has no such call";

    VOLUME_EXISTS = 4001 "a volume of that name exists";
    MARK_EXISTS = 4002 "a mark of that name exists at that instant";
    IN_USE = 4003 "the volume is in use by clients";
    STORE_EXISTS = 4004 "there is a store in this directory";
    STORE_LOCKED = 4005 "another process has the store open";
    VERSIONS_DIFFER = 4006 "command line and server are of different versions";
    SOCKET_LIVE = 4007 "a process listens at this socket";
    NOT_EMPTY = 4008 "the directory is not empty";
    TARGET_EXISTS = 4009 "the file to be written exists";
    BOOK_BUSY = 4010 "another process writes the seals of images";
    IMAGE_BUSY = 4011 "an image changed while it was looked at";
    IMAGE_IN_USE = 4012 "a program uses the file of an image";
    MOUNTED = 4015 "something is mounted on the directory";

    WRONG_KEY = 5001 "this passphrase or key opens no key slot of the store";
    KEY_MISSING = 5002 "no key was found for the store";
    NOT_ALLOWED = 5003 "the caller has no right to do this";
    READ_ONLY = 5004 "the store or volume is read-only";
    SOCKET_FOREIGN = 5005 "the socket belongs to somebody else";
    FILE_DENIED = 5006 "the system does not let us use this file";
    MAY_NOT_RESTORE = 5007 "the caller may not restore this volume";
    CUT_OFF = 5008 "the client was detached from this volume";
    IMAGE_NAME = 5009 "an image names a file that it must not make us open";
    MOUNT_DENIED = 5012 "the system does not let us mount";

    SHRINK = 6001 "shrinking needs --shrink";
    REWIND_UNCONFIRMED = 6002 "going back needs a confirmation";
    REMOVAL_UNCONFIRMED = 6003 "removing needs a confirmation";
    UNCONFIRMED = 6004 "this needs a confirmation";
    PINNED = 6005 "a pinned mark holds this";
    NETWORK_FS = 6006 "a store on a network file system needs --network-fs";
    DEVICE_NOT_EMPTY = 6007 "the device holds data";
    LAST_KEY = 6008 "the last key slot cannot be removed";
    DIRECTION = 6010 "both sides hold writes that the other lacks";
    PARENT_DIFFERS = 6011 "the parent of an image is not what the image was made over";
    IMAGE_READ_ONLY = 6012 "the image says that it must not be written";
    PARENT_UNSEALED = 6013 "nobody can tell whether an image stands on what it was made over";
    PARENT_UNPROVEN = 6014 "nothing proves that a parent is the right one, and no reason was given";

    DAMAGED = 7001 "damaged bytes were met";
    CHECK_FOUND = 7002 "the check found damage";
    PEER_DAMAGED = 7003 "a block differs at the peer after it was written";
    STORE_DAMAGED = 7004 "the store's own records are damaged";
    DISK_ERROR = 7005 "the disk gave an error";
    IMAGE_DAMAGED = 7006 "an image is damaged";
    IMAGE_LIMIT = 7007 "an image goes beyond what this program follows";
    BOOK_DAMAGED = 7008 "the kept seals of images are damaged";
    GUEST_DAMAGED = 7010 "a file system in the disk is damaged";

    SERVER_SILENT = 8001 "the server does not answer";
    SERVER_GONE = 8002 "the connection to the server broke";
    TIMED_OUT = 8003 "the server did not answer in time";

    STORE_FULL = 9001 "the store has no room";
    TARGET_FULL = 9002 "the file or device to be written is too small or full";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ascend_and_none_is_used_twice() {
        assert!(REGISTRY.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(REGISTRY.iter().all(|(code, _)| code.0 < 10_000));
    }

    #[test]
    fn the_first_digit_is_the_exit_code() {
        for (code, _) in REGISTRY {
            let digit = u8::try_from(code.number() / 1000).expect("below ten");
            assert_eq!(code.kind().exit(), if digit == 0 { 70 } else { digit }, "{code}");
        }
    }

    #[test]
    fn printed_codes_are_read_back() {
        for (code, _) in REGISTRY {
            assert_eq!(Code::of_text(&code.to_string()), Some(*code));
        }
        assert_eq!(Code::of_text("E9999"), None);
        assert_eq!(Code::of_text("3104"), None);
    }
}
