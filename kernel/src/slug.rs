//! Names for boxes: adjective-noun slugs from a lease id, machine names, and what to do when they collide.
//!
//! The algorithm and word lists are the original system's, so that both name a lease alike.

use crabbox_schemas::ids::LeaseId;

const ADJECTIVES: [&str; 14] = [
    "amber", "blue", "brisk", "coral", "crimson", "golden", "harbor", "jade", "pearl", "quick",
    "silver", "swift", "tidal", "violet",
];
const NOUNS: [&str; 8] =
    ["barnacle", "crab", "crayfish", "hermit", "krill", "lobster", "prawn", "shrimp"];

/// 32-bit FNV-1a.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// The slug a lease has when nobody else has it.
pub fn base(id: &LeaseId) -> String {
    let h = hash(id.as_str()) as usize;
    format!("{}-{}", ADJECTIVES[h % 14], NOUNS[h / 14 % 8])
}

/// The slug for a lease, given which slugs are taken.
pub fn choose(id: &LeaseId, taken: impl Fn(&str) -> bool) -> String {
    let base = base(id);
    if !taken(&base) {
        return base;
    }
    (0..20)
        .map(|attempt| format!("{base}-{:04x}", hash(&format!("{id}-{attempt}")) & 0xffff))
        .find(|slug| !taken(slug))
        .unwrap_or_else(|| format!("{base}-{:04x}", hash(id.as_str()) & 0xffff))
}

/// The name of the provider's machine.
pub fn machine_name(id: &LeaseId, slug: &str) -> String {
    if slug.is_empty() {
        return format!("crabbox-{}", id.as_str().replace('_', "-"));
    }
    format!("crabbox-{slug}-{:08x}", hash(id.as_str()))
}

/// The name of the key at the provider.
pub fn key_name(id: &LeaseId) -> String {
    format!("crabbox-{}", id.as_str().replace('_', "-"))
}

/// Lowercase letters and digits, every other run one `-`, none at the ends.
pub fn normalise(text: &str) -> String {
    let mut out = String::new();
    for c in text.trim().to_lowercase().chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.trim_end_matches('-').to_owned()
}

/// A value fit for a provider's label: `[A-Za-z0-9_.-]`, at most 63, trimmed of `_.-`, never empty.
pub fn label_value(text: &str) -> String {
    let safe: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '_' })
        .take(63)
        .collect();
    let trimmed = safe.trim_matches(|c| "_.-".contains(c));
    if trimmed.is_empty() { "unknown".to_owned() } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lease id, slug, machine name, slug after the first collision: from the original's documents.
    const GOLDEN: [(&str, &str, &str, &str); 5] = [
        ("cbx_000000000000", "coral-shrimp", "crabbox-coral-shrimp-1f355055", "coral-shrimp-1808"),
        (
            "cbx_000000000001",
            "tidal-lobster",
            "crabbox-tidal-lobster-1e354ec2",
            "tidal-lobster-fa77",
        ),
        ("cbx_0123456789ab", "violet-prawn", "crabbox-violet-prawn-40675f31", "violet-prawn-73ac"),
        ("cbx_abcdef123456", "blue-prawn", "crabbox-blue-prawn-c80c2195", "blue-prawn-6b48"),
        ("cbx_deadbeefcafe", "silver-crab", "crabbox-silver-crab-63597998", "silver-crab-140d"),
    ];

    #[test]
    fn golden_vectors_hold() {
        for (id, slug, name, collided) in GOLDEN {
            let id = LeaseId::parse(id).unwrap();
            assert_eq!(choose(&id, |_| false), slug);
            assert_eq!(machine_name(&id, slug), name);
            assert_eq!(choose(&id, |s| s == slug), collided);
        }
    }

    #[test]
    fn twenty_collisions_still_end_in_a_name() {
        let id = LeaseId::parse("cbx_abcdef123456").unwrap();
        assert_eq!(choose(&id, |_| true), "blue-prawn-2195");
    }

    #[test]
    fn names_without_a_slug_use_the_id() {
        let id = LeaseId::parse("cbx_abcdef123456").unwrap();
        assert_eq!(machine_name(&id, ""), "crabbox-cbx-abcdef123456");
        assert_eq!(key_name(&id), "crabbox-cbx-abcdef123456");
    }

    #[test]
    fn normalising_keeps_letters_and_digits() {
        assert_eq!(normalise("  Blue_Prawn!! 7 "), "blue-prawn-7");
        assert_eq!(normalise("--"), "");
        assert_eq!(label_value("a b/c."), "a_b_c");
        assert_eq!(label_value("///"), "unknown");
    }
}
