package api

import "encoding/json"

// This file lists the JSON-RPC methods with their parameters and results.
// Optional fields are pointers or carry omitempty; null and absent are the
// same.

// AbortParams names the running call to abort.
type AbortParams struct {
	AbortID int64 `json:"abortId"`
}

// PathParams is the input of every method that only takes a path.
type PathParams struct {
	Path string `json:"path"`
}

// ReadFileParams is the input of readFile and readTextFile.
type ReadFileParams struct {
	Path    string `json:"path"`
	AbortID *int64 `json:"abortId,omitempty"`
}

// WriteOptions says how a file is opened for writing.
type WriteOptions struct {
	Append    *bool   `json:"append,omitempty"`
	Create    *bool   `json:"create,omitempty"` // default true
	CreateNew *bool   `json:"createNew,omitempty"`
	Mode      *uint32 `json:"mode,omitempty"`
}

// WriteFileParams is the input of writeFile: Content or ContentStreamID.
type WriteFileParams struct {
	Path            string        `json:"path"`
	AbortID         *int64        `json:"abortId,omitempty"`
	Options         *WriteOptions `json:"options,omitempty"`
	Content         *Bytes        `json:"content,omitempty"`
	ContentStreamID *int64        `json:"contentStreamId,omitempty"`
}

// WriteTextFileParams is the input of writeTextFile.
type WriteTextFileParams struct {
	Path            string        `json:"path"`
	AbortID         *int64        `json:"abortId,omitempty"`
	Options         *WriteOptions `json:"options,omitempty"`
	Content         *string       `json:"content,omitempty"`
	ContentStreamID *int64        `json:"contentStreamId,omitempty"`
}

// DirEntry is one entry of readDir.
type DirEntry struct {
	Name        string `json:"name"`
	IsFile      bool   `json:"isFile"`
	IsDirectory bool   `json:"isDirectory"`
	IsSymlink   bool   `json:"isSymlink"`
}

// WalkEntry is one element of the streams of walk and expandGlob: each
// stream message carries exactly one, as JSON.
type WalkEntry struct {
	Path        string `json:"path"`
	Name        string `json:"name"`
	IsFile      bool   `json:"isFile"`
	IsDirectory bool   `json:"isDirectory"`
	IsSymlink   bool   `json:"isSymlink"`
}

// RemoveParams is the input of remove.
type RemoveParams struct {
	Path    string `json:"path"`
	Options *struct {
		Recursive *bool `json:"recursive,omitempty"`
	} `json:"options,omitempty"`
}

// MkdirParams is the input of mkdir.
type MkdirParams struct {
	Path    string        `json:"path"`
	Options *MkdirOptions `json:"options,omitempty"`
}

// MkdirOptions are the options of mkdir.
type MkdirOptions struct {
	Recursive *bool   `json:"recursive,omitempty"`
	Mode      *uint32 `json:"mode,omitempty"`
}

// RenameParams is the input of rename.
type RenameParams struct {
	OldPath string `json:"oldPath"`
	NewPath string `json:"newPath"`
}

// FileInfo is the result of stat, lstat and fileStat.
type FileInfo struct {
	IsFile        bool   `json:"isFile"`
	IsDirectory   bool   `json:"isDirectory"`
	IsSymlink     bool   `json:"isSymlink"`
	Size          int64  `json:"size"`
	Mtime         Date   `json:"mtime"`
	Atime         Date   `json:"atime"`
	Birthtime     Date   `json:"birthtime"`
	Ctime         Date   `json:"ctime"`
	Mode          uint32 `json:"mode"`
	Dev           uint64 `json:"dev"`
	Ino           uint64 `json:"ino"`
	Nlink         uint64 `json:"nlink"`
	UID           uint32 `json:"uid"`
	GID           uint32 `json:"gid"`
	Rdev          uint64 `json:"rdev"`
	Blksize       int64  `json:"blksize"`
	Blocks        int64  `json:"blocks"`
	IsBlockDevice bool   `json:"isBlockDevice"`
	IsCharDevice  bool   `json:"isCharDevice"`
	IsFifo        bool   `json:"isFifo"`
	IsSocket      bool   `json:"isSocket"`
}

// ChmodParams is the input of chmod.
type ChmodParams struct {
	Path string `json:"path"`
	Mode uint32 `json:"mode"`
}

// ChownParams is the input of chown; a nil id stays as it is.
type ChownParams struct {
	Path string `json:"path"`
	UID  *int64 `json:"uid"`
	GID  *int64 `json:"gid"`
}

// CopyFileParams is the input of copyFile.
type CopyFileParams struct {
	FromPath string `json:"fromPath"`
	ToPath   string `json:"toPath"`
}

// LinkParams is the input of link and symlink.
type LinkParams struct {
	Target  string `json:"target"`
	Path    string `json:"path"`
	Options *struct {
		Type *string `json:"type,omitempty"` // "file", "dir" or "junction"; ignored
	} `json:"options,omitempty"`
}

// MakeTempParams is the input of makeTempDir and makeTempFile.
type MakeTempParams struct {
	Options *struct {
		Dir    *string `json:"dir,omitempty"`
		Prefix *string `json:"prefix,omitempty"`
		Suffix *string `json:"suffix,omitempty"`
	} `json:"options,omitempty"`
}

// TruncateParams is the input of truncate.
type TruncateParams struct {
	Name   string `json:"name"`
	Length *int64 `json:"length,omitempty"`
}

// UmaskParams is the input of umask.
type UmaskParams struct {
	Mask *uint32 `json:"mask,omitempty"`
}

// UtimeParams is the input of utime.
type UtimeParams struct {
	Path  string `json:"path"`
	Atime Date   `json:"atime"`
	Mtime Date   `json:"mtime"`
}

// OpenOptions says how open opens a file.
type OpenOptions struct {
	Read      *bool   `json:"read,omitempty"` // default true when nothing else is asked
	Write     *bool   `json:"write,omitempty"`
	Append    *bool   `json:"append,omitempty"`
	Truncate  *bool   `json:"truncate,omitempty"`
	Create    *bool   `json:"create,omitempty"`
	CreateNew *bool   `json:"createNew,omitempty"`
	Mode      *uint32 `json:"mode,omitempty"`
}

// OpenParams is the input of open.
type OpenParams struct {
	Path    string       `json:"path"`
	Options *OpenOptions `json:"options,omitempty"`
}

// FileHandle is the result of open and create and the input of the methods
// that only take a handle. Handles belong to the connection that opened them.
type FileHandle struct {
	FileHandleID int64 `json:"fileHandleId"`
}

// FileLockParams is the input of fileLock.
type FileLockParams struct {
	FileHandleID int64 `json:"fileHandleId"`
	Exclusive    *bool `json:"exclusive,omitempty"`
}

// FileReadParams is the input of fileRead.
type FileReadParams struct {
	FileHandleID int64 `json:"fileHandleId"`
	Length       int64 `json:"length"`
}

// FileReadResult is the result of fileRead; nil Data is the end of the file.
type FileReadResult struct {
	Data *Bytes `json:"data"`
}

// FileSeekParams is the input of fileSeek. Offset is a number or, for
// offsets beyond 2^53, a decimal string; Whence is 0 start, 1 current, 2 end.
type FileSeekParams struct {
	FileHandleID int64  `json:"fileHandleId"`
	Offset       BigInt `json:"offset"`
	Whence       int    `json:"whence"`
}

// FileSeekResult is the result of fileSeek.
type FileSeekResult struct {
	Position int64 `json:"position"`
}

// FileTruncateParams is the input of fileTruncate. Size is what the Python
// SDK calls Len.
type FileTruncateParams struct {
	FileHandleID int64  `json:"fileHandleId"`
	Len          *int64 `json:"len,omitempty"`
	Size         *int64 `json:"size,omitempty"`
}

// FileUtimeParams is the input of fileUtime.
type FileUtimeParams struct {
	FileHandleID int64 `json:"fileHandleId"`
	Atime        Date  `json:"atime"`
	Mtime        Date  `json:"mtime"`
}

// FileWriteParams is the input of fileWrite.
type FileWriteParams struct {
	FileHandleID int64 `json:"fileHandleId"`
	Data         Bytes `json:"data"`
}

// FileWriteResult is the result of fileWrite.
type FileWriteResult struct {
	BytesWritten int `json:"bytesWritten"`
}

// Regexp is a JavaScript regular expression.
type Regexp struct {
	Source string `json:"source"`
	Flags  string `json:"flags"`
}

// WalkOptions are the options of walk (as in @std/fs).
type WalkOptions struct {
	MaxDepth        *float64 `json:"maxDepth,omitempty"`
	IncludeFiles    *bool    `json:"includeFiles,omitempty"`
	IncludeDirs     *bool    `json:"includeDirs,omitempty"`
	IncludeSymlinks *bool    `json:"includeSymlinks,omitempty"`
	FollowSymlinks  *bool    `json:"followSymlinks,omitempty"`
	Canonicalize    *bool    `json:"canonicalize,omitempty"`
	Exts            []string `json:"exts,omitempty"`
	Match           []Regexp `json:"match,omitempty"`
	Skip            []Regexp `json:"skip,omitempty"`
}

// WalkParams is the input of walk. The Python SDK nests the options.
type WalkParams struct {
	Path string `json:"path"`
	WalkOptions
	Options *WalkOptions `json:"options,omitempty"`
}

// GlobOptions are the options of expandGlob (as in @std/fs).
type GlobOptions struct {
	Extended        *bool    `json:"extended,omitempty"`
	Globstar        *bool    `json:"globstar,omitempty"`
	CaseInsensitive *bool    `json:"caseInsensitive,omitempty"`
	Root            *string  `json:"root,omitempty"`
	Exclude         []string `json:"exclude,omitempty"`
	IncludeDirs     *bool    `json:"includeDirs,omitempty"`
	FollowSymlinks  *bool    `json:"followSymlinks,omitempty"`
	Canonicalize    *bool    `json:"canonicalize,omitempty"`
}

// ExpandGlobParams is the input of expandGlob. The Python SDK nests the
// options.
type ExpandGlobParams struct {
	Glob string `json:"glob"`
	GlobOptions
	Options *GlobOptions `json:"options,omitempty"`
}

// StreamResult is the result of walk and expandGlob.
type StreamResult struct {
	StreamID int64 `json:"streamId"`
}

// Stdio values.
const (
	StdioPiped = "piped"
	StdioNull  = "null"
)

// SpawnParams is the input of spawn.
type SpawnParams struct {
	Command string   `json:"command"`
	Args    []string `json:"args,omitempty"`
	ProcessOptions
}

// ProcessOptions are common to spawn, spawnDeno and spawnDenoRepl.
type ProcessOptions struct {
	Env           map[string]string `json:"env,omitempty"`
	ClearEnv      *bool             `json:"clearEnv,omitempty"`
	Cwd           *string           `json:"cwd,omitempty"`
	StdinStreamID *int64            `json:"stdinStreamId,omitempty"`
	Stdout        string            `json:"stdout"`
	Stderr        string            `json:"stderr"`
}

// SpawnResult is the result of spawn and spawnDenoRepl.
type SpawnResult struct {
	PID            int    `json:"pid"`
	StdoutStreamID *int64 `json:"stdoutStreamId"`
	StderrStreamID *int64 `json:"stderrStreamId"`
}

// PIDParams is the input of processWait, denoHttpWait and denoReplClose.
type PIDParams struct {
	PID    int   `json:"pid"`
	VSCode *bool `json:"vscode,omitempty"`
}

// ProcessStatus is the result of processWait. Code is 128 plus the signal's
// number for a process that a signal ended; OOM is "high-confidence",
// "low-confidence" or nil.
type ProcessStatus struct {
	Success bool    `json:"success"`
	Code    int     `json:"code"`
	Signal  *string `json:"signal"`
	OOM     *string `json:"oom"`
}

// ProcessKillParams is the input of processKill. Signal defaults to SIGTERM.
type ProcessKillParams struct {
	PID    int     `json:"pid"`
	Signal *string `json:"signal,omitempty"`
	VSCode *bool   `json:"vscode,omitempty"`
}

// SpawnDenoParams is the input of spawnDeno: Entrypoint or Code.
type SpawnDenoParams struct {
	ProcessOptions
	ScriptArgs []string `json:"scriptArgs,omitempty"`
	Entrypoint *string  `json:"entrypoint,omitempty"`
	Watch      *Watch   `json:"watch,omitempty"`
	Code       *string  `json:"code,omitempty"`
	Extension  *string  `json:"extension,omitempty"`
}

// SpawnDenoResult is the result of spawnDeno.
type SpawnDenoResult struct {
	SpawnResult
	WatcherID *string `json:"watcherId"`
}

// SpawnDenoReplParams is the input of spawnDenoRepl.
type SpawnDenoReplParams struct {
	ProcessOptions
	ScriptArgs []string `json:"scriptArgs,omitempty"`
}

// DenoReplEvalParams is the input of denoReplEval.
type DenoReplEvalParams struct {
	PID  int    `json:"pid"`
	Code string `json:"code"`
}

// DenoReplCallParams is the input of denoReplCall. Fn names a function of the
// session or is a function expression.
type DenoReplCallParams struct {
	PID  int               `json:"pid"`
	Fn   string            `json:"fn"`
	Args []json.RawMessage `json:"args"`
}

// FetchParams is the input of fetch. With PID, the request goes to the HTTP
// server of that Deno process, whatever host the URL names.
type FetchParams struct {
	URL          string      `json:"url"`
	Method       string      `json:"method"`
	Headers      [][2]string `json:"headers"`
	Redirect     string      `json:"redirect"` // "follow" or "manual"
	AbortID      *int64      `json:"abortId,omitempty"`
	BodyStreamID *int64      `json:"bodyStreamId,omitempty"`
	PID          *int        `json:"pid,omitempty"`
}

// FetchResult is the result of fetch.
type FetchResult struct {
	Status       int         `json:"status"`
	StatusText   string      `json:"statusText"`
	Headers      [][2]string `json:"headers"`
	BodyStreamID *int64      `json:"bodyStreamId"`
}

// EnvKeyParams is the input of envGet and envDelete.
type EnvKeyParams struct {
	Key string `json:"key"`
}

// EnvSetParams is the input of envSet.
type EnvSetParams struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// StreamParams is the content of stream notifications.
type StreamParams struct {
	StreamID int64        `json:"streamId"`
	Data     Bytes        `json:"data,omitempty"`
	Error    *RemoteError `json:"error,omitempty"`
	Reason   *RemoteError `json:"reason,omitempty"`
}

// WatcherRestartParams is the content of a watcher's restart notification.
type WatcherRestartParams struct {
	WatcherID string `json:"watcherId"`
}
