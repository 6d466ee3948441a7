-- +goose Up
ALTER TABLE sandboxes ADD COLUMN power        TEXT NOT NULL DEFAULT '';    -- paused, suspended; empty while it runs
ALTER TABLE sandboxes ADD COLUMN remaining    INTEGER NOT NULL DEFAULT 0;  -- of the lifetime while it stands still, in ms
ALTER TABLE sandboxes ADD COLUMN idle_pause   INTEGER NOT NULL DEFAULT 0;  -- ms without activity; 0 is never
ALTER TABLE sandboxes ADD COLUMN idle_to_disk INTEGER NOT NULL DEFAULT 0;  -- boolean
ALTER TABLE sandboxes ADD COLUMN forked_from  TEXT NOT NULL DEFAULT '';    -- id of the sandbox that it continues

-- What a fork must have as its parent has it; 0 and empty for sandboxes of older servers.
ALTER TABLE sandboxes ADD COLUMN cpus  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN disk  INTEGER NOT NULL DEFAULT 0;         -- bytes
ALTER TABLE sandboxes ADD COLUMN image TEXT NOT NULL DEFAULT '';           -- path of its file

-- +goose Down
ALTER TABLE sandboxes DROP COLUMN image;
ALTER TABLE sandboxes DROP COLUMN disk;
ALTER TABLE sandboxes DROP COLUMN cpus;
ALTER TABLE sandboxes DROP COLUMN forked_from;
ALTER TABLE sandboxes DROP COLUMN idle_to_disk;
ALTER TABLE sandboxes DROP COLUMN idle_pause;
ALTER TABLE sandboxes DROP COLUMN remaining;
ALTER TABLE sandboxes DROP COLUMN power;
