-- +goose Up
ALTER TABLE sandboxes ADD COLUMN still_since INTEGER;                       -- null while the machine runs

-- Those that stand still already: nobody knows since when.
UPDATE sandboxes SET still_since = CAST(unixepoch('subsec') * 1000 AS INTEGER) WHERE power <> '';

-- +goose Down
ALTER TABLE sandboxes DROP COLUMN still_since;
