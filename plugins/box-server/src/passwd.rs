//! Whose commands a container runs: its `/etc/passwd`, read without the system's library.

use std::io;

/// The user that commands run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// Finds a user by `name`, `uid`, `name:gid` or `uid:gid`; nothing means root. A number needs no entry.
pub(crate) fn find(passwd: &str, wanted: &str) -> io::Result<User> {
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let (name, group) = wanted.split_once(':').unwrap_or((wanted, ""));
    let entry = passwd
        .lines()
        .filter_map(entry)
        .find(|user| user.name == name || name.parse() == Ok(user.uid));
    let mut user = match (entry, name.parse()) {
        (Some(user), _) => user,
        (None, Ok(uid)) => nameless(uid),
        (None, Err(_)) => {
            return Err(io::Error::other(format!("the image has no user {name:?}")));
        }
    };
    if !group.is_empty() {
        let wrong = |_| io::Error::other(format!("{group:?} is not the number of a group"));
        user.gid = group.parse().map_err(wrong)?;
    }
    Ok(user)
}

fn entry(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
    Some(User {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: home.to_owned(),
        shell: shell.to_owned(),
    })
}

fn nameless(uid: u32) -> User {
    let (name, home) = if uid == 0 { ("root".to_owned(), "/root") } else { (uid.to_string(), "/") };
    User { name, uid, gid: 0, home: home.to_owned(), shell: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/ash\n#\nnode:x:1000:1001::/home/node:/bin/bash\n";

    #[test]
    fn a_user_is_found_by_name_or_number_and_a_group_may_be_given() {
        let node = find(PASSWD, "node").unwrap();
        assert_eq!((node.uid, node.gid, node.home.as_str()), (1000, 1001, "/home/node"));
        assert_eq!(find(PASSWD, "1000").unwrap(), node);
        assert_eq!(find(PASSWD, "node:7").unwrap(), User { gid: 7, ..node });
        assert_eq!(find(PASSWD, "").unwrap().shell, "/bin/ash");
    }

    #[test]
    fn a_number_needs_no_entry_and_a_name_does() {
        assert_eq!(find("", "").unwrap().home, "/root");
        assert_eq!(find("", "12:34").unwrap().gid, 34);
        assert!(find(PASSWD, "nobody").is_err());
        assert!(find(PASSWD, "node:staff").is_err());
    }
}
