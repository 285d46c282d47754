package gc

import "slices"

// OldVersions returns the folders of layouts before the classic 005, which no
// program of today reads: what "delete old-versions" removes.
func OldVersions() []string {
	var folders []string
	for _, kind := range []string{"basebackups", "wal"} {
		for _, version := range []string{"000", "001", "002", "003", "004"} {
			folders = append(folders, kind+"_"+version+"/")
		}
	}
	slices.Sort(folders)
	return folders
}
