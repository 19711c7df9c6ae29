//! Causes of a change to another release of this provider.

use super::{Cause, act, none_lost, not_lost_yet, run};

const KEEP_RUNNING: &str = "keep the present release in service on this node";
const NOTHING_CHANGED: &str = "nothing was changed, and the present release reads everything";
const OTHER_PROGRAM: &str = "PROGRAM version --output json > release.json";

causes! {
    FORMATS_UNREADABLE = none_lost(
        "release_formats_unreadable",
        "the formats of the other release cannot be read",
        NOTHING_CHANGED,
    )
    .steps(&[run("write them with the program (PROGRAM) of the other release", OTHER_PROGRAM)]);

    CONFIGURATION_REFUSED = none_lost(
        "release_refuses_configuration",
        "the other release refuses settings of the configuration file",
        "a provider of that release would not start; nothing was changed",
    )
    .steps(&[
        act("keep the present release on this node until these settings are removed or changed in {config}"),
        run(
            "then list every problem with the program (PROGRAM) of the other release",
            "PROGRAM config --config {config}",
        ),
    ]);

    FILES_REFUSED = none_lost(
        "release_refuses_files",
        "the other release does not read files of the state directory",
        "a provider of that release would not start, and the files stay as they are",
    )
    .steps(&[
        act(KEEP_RUNNING),
        act(
            "otherwise rebuild the state with recover-state of the other release, after a backup of \
             the state directory",
        ),
    ])
    .warnings(&["do not delete or edit the state or its checkpoint to make another release start"]);

    OBJECTS_REFUSED = not_lost_yet(
        "release_refuses_objects",
        "the other release does not read stored objects",
        "an API server beside that release could not read these objects",
    )
    .steps(&[
        act(KEEP_RUNNING),
        act(
            "write these objects again while a release serves that reads the old format and writes \
             one that the other release reads",
        ),
    ])
    .warnings(&["do not delete objects because another release does not read them"]);

    NO_WAY_BACK = not_lost_yet(
        "release_without_way_back",
        "this release does not read files or objects that the other release writes",
        "once the other release has written, this one refuses to start or to read new objects",
    )
    .steps(&[
        act(
            "make a backup record before the change: recover-state of this release rebuilds the \
             state from it",
        ),
        act("change one node, and verify it, before the others"),
    ])
    .warnings(&["do not put an older state file back: it may lack versions of the key in use"]);
}
