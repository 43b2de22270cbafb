//! What stands between the user and a server; nothing is made or changed.

use crabbox_plugin_sdk::cloud::check_places;
use crabbox_plugin_sdk::{BoxRequest, Check, CheckStatus, Failure, check, refused};

use crate::api::{Api, IMAGE, MachineType};
use crate::catalog;
use crate::config::{CLASSES, Settings};

/// What only who tries to write is told.
const RIGHT: &str =
    "not looked at: the token must have the right Read & Write, which shows when a server is made";

pub(crate) fn checks(api: &Api<'_>, settings: &Settings) -> Result<Vec<Check>, Failure> {
    let known = match catalog::regions(api) {
        Ok(known) => known,
        Err(failure) => return Ok(vec![refused("hetzner.token", failure)?]),
    };
    let names: Vec<&str> = known.iter().map(|location| location.name.as_str()).collect();
    let mut checks = vec![check("hetzner.token", CheckStatus::Ok, "the token is known", "")];
    checks.push(check("hetzner.right", CheckStatus::Skip, RIGHT, ""));
    let hint = format!("choose one of {}", names.join(", "));
    let (id, wanted) = ("hetzner.location", settings.locations());
    checks.extend(check_places(id, &wanted, &known, "no location", &hint));
    checks.push(types(api, settings)?);
    checks.push(image(api, settings)?);
    Ok(checks)
}

/// Which machine types of the classes the service has here.
fn types(api: &Api<'_>, settings: &Settings) -> Result<Check, Failure> {
    let all: Vec<MachineType> = api.all("server_types", &[])?;
    let request = BoxRequest { class: "beast".to_owned(), ..BoxRequest::default() };
    let there = |name: &&str| {
        let mut places = settings.locations().into_iter();
        all.iter().any(|one| one.name == **name && places.any(|place| one.is_at(place)))
    };
    let (had, lacking): (Vec<&str>, Vec<&str>) =
        CLASSES.machines(&request).into_iter().partition(there);
    let id = "hetzner.types";
    Ok(match (had.is_empty(), lacking.is_empty()) {
        (_, true) => check(id, CheckStatus::Ok, had.join(", "), ""),
        (false, _) => {
            let what = format!("{}; now not to be had: {}", had.join(", "), lacking.join(", "));
            check(id, CheckStatus::Warn, what, "")
        }
        (true, _) => {
            let hint = "choose a machine with --type, or another hetzner.location";
            check(id, CheckStatus::Fail, "no machine type of the classes can be had now", hint)
        }
    })
}

fn image(api: &Api<'_>, settings: &Settings) -> Result<Check, Failure> {
    let image = &settings.image;
    Ok(match api.has_image(image)? {
        true => check("hetzner.image", CheckStatus::Ok, image, ""),
        false => {
            let what = format!("there is no image {image}");
            check("hetzner.image", CheckStatus::Fail, what, IMAGE)
        }
    })
}
