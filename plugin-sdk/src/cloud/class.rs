//! Classes of machines.

use crate::BoxRequest;

/// The machine types of each class, the best first; the largest class comes last.
#[derive(Debug, Clone, Copy)]
pub struct Classes(pub &'static [(&'static str, &'static [&'static str])]);

impl Classes {
    /// The machine types a request may be met with, the best first. An exact type is the only one, and a class that is
    /// none is a type.
    pub fn machines(self, request: &BoxRequest) -> Vec<&str> {
        match (&request.machine_type, self.of(&request.class)) {
            (Some(exact), _) => vec![exact],
            (None, Some(machines)) => machines.to_vec(),
            (None, None) => vec![&request.class],
        }
    }

    /// Whether a class was asked for, which can be met with several types.
    pub fn is_class(self, request: &BoxRequest) -> bool {
        request.machine_type.is_none() && self.of(&request.class).is_some()
    }

    /// The class that begins with a machine type.
    pub fn class_of(self, machine: &str) -> Option<&'static str> {
        let mut all = self.0.iter();
        all.find(|(_, machines)| machines.first() == Some(&machine)).map(|(name, _)| *name)
    }

    /// Every machine type of any class, once, those of the largest class first.
    pub fn all(self) -> Vec<&'static str> {
        distinct(self.0.iter().rev().flat_map(|(_, machines)| *machines).copied())
    }

    fn of(self, class: &str) -> Option<&'static [&'static str]> {
        self.0.iter().find(|(name, _)| *name == class).map(|(_, machines)| *machines)
    }
}

/// Names in their order, each where it first stands.
pub fn distinct<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all = Vec::new();
    for name in names {
        if !name.is_empty() && !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: Classes = Classes(&[("standard", &["m2", "m1"]), ("fast", &["m4", "m2"])]);

    #[test]
    fn an_exact_type_is_the_only_one_and_an_unknown_class_is_a_type() {
        let mut request = BoxRequest { class: "fast".to_owned(), ..BoxRequest::default() };
        assert_eq!(
            (CLASSES.machines(&request), CLASSES.is_class(&request)),
            (vec!["m4", "m2"], true)
        );
        request.class = "m8".to_owned();
        assert_eq!((CLASSES.machines(&request), CLASSES.is_class(&request)), (vec!["m8"], false));
        request.machine_type = Some("m1".to_owned());
        assert_eq!(CLASSES.machines(&request), ["m1"]);
    }

    #[test]
    fn every_type_is_named_once_and_some_stand_for_their_class() {
        assert_eq!(CLASSES.all(), ["m4", "m2", "m1"]);
        assert_eq!(CLASSES.class_of("m2"), Some("standard"));
        assert_eq!(CLASSES.class_of("m1"), None);
    }
}
