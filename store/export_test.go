package store

import "context"

// PutRaw writes a key below the prefix as it stands.
func (db *DB) PutRaw(ctx context.Context, key, text string) error {
	_, err := db.client.Put(ctx, db.prefix+"/"+key, text)
	return err
}
