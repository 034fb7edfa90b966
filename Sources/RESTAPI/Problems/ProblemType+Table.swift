import Model

extension ProblemType {
  /// The one table of problem types: status, title, explanation, remedy. First what is wrong with a request as such,
  /// then what stands against it in the state of things, then what went wrong underneath.
  static func entry(_ code: ProblemCode) -> ProblemType {
    switch code {
    case .malformedRequest:
      ProblemType(
        code, 400, "The request is malformed",
        """
        The path, a header or the framing of the body breaks the rules of HTTP, or holds what this API \
        never takes: a broken percent escape, a NUL, a body on a route that has none.
        """,
        remedy: "correct the part that the detail names")
    case .malformedJSON:
      ProblemType(
        code, 400, "The body isn't valid JSON",
        """
        The body breaks the grammar of JSON (RFC 8259), isn't valid UTF-8, or nests values too deep. The \
        detail names the byte.
        """,
        remedy: "send one JSON object, encoded in UTF-8")
    case .malformedBits:
      ProblemType(
        code, 400, "The body isn't the bits of a bitmap",
        """
        The bits of a bitmap have a format of their own, with a digest at the end: what is cut off, or was changed on its \
        way, is refused, and nothing has changed. The detail tells what is wrong with them.
        """,
        remedy: "export the bits again, and send them as they came")
    case .invalidField:
      ProblemType(
        code, 400, "A field of the body is wrong",
        """
        A field is missing, unknown, of the wrong type, written twice, or has a value that can't be. \
        Unknown fields are refused so that a misspelt one is never silently ignored. Every fault is \
        listed in `errors` with its JSON pointer.
        """,
        remedy: "correct the fields that `errors` names")
    case .invalidParameter:
      ProblemType(
        code, 400, "A query parameter is wrong",
        """
        A parameter of the query is unknown, given twice, or has a value that can't be. Unknown \
        parameters are refused so that a misspelt filter never shows too much.
        """,
        remedy: "correct the parameters that `errors` names")
    case .bodyTooLarge:
      ProblemType(
        code, 413, "The body is too large",
        """
        The body has more bytes than this server takes. Requests of this API are small, but for the bits of bitmaps; data \
        never travels through it.
        """,
        remedy: "send at most 1 MiB, or 64 MiB of the bits of a bitmap")
    case .unsupportedMediaType:
      ProblemType(
        code, 415, "The body's type isn't taken here",
        """
        A body must say that it is JSON; this also keeps web pages of other sites from posting here with \
        a plain form. Only the bits of a bitmap are no JSON.
        """,
        remedy: """
          send `Content-Type: application/json`; for PATCH, `application/merge-patch+json` is taken as well; bits are \
          `application/octet-stream`
          """)
    case .misdirectedRequest:
      ProblemType(
        code, 421, "This server doesn't answer for that host",
        """
        The `Host` of the request isn't one of this server's names. Otherwise a web page could reach it \
        through a name that it rebinds to this address.
        """,
        remedy: "use a loopback name with the server's own port, or add the name to the configuration")
    case .foreignOrigin:
      ProblemType(
        code, 403, "The request comes from a page of another site",
        "The browser says (`Origin`, `Sec-Fetch-Site`) that a page from elsewhere makes this request.",
        remedy: "call from a page that this server serves, or from a program that isn't a browser")
    case .notFound:
      ProblemType(
        code, 404, "There is no such resource",
        "Nothing has this path, id or name. Ids are ULIDs of 26 characters; names are lower case.",
        remedy: "look at the list of the collection. A path ends without a slash")
    case .methodNotAllowed:
      ProblemType(
        code, 405, "The resource doesn't take this method",
        "The path is right, the method isn't. `Allow` lists those that are.",
        remedy: "use one of the methods that `Allow` lists")
    case .preconditionFailed:
      ProblemType(
        code, 412, "The resource has changed meanwhile",
        "`If-Match` names a version that isn't the current one: somebody else was faster.",
        remedy: "read the resource again and decide anew, with its current ETag")
    case .preconditionRequired:
      ProblemType(
        code, 428, "The request must say which version it replaces",
        "Replacing a whole resource without `If-Match` could undo somebody else's change.",
        remedy: "send `If-Match` with the ETag, or `If-None-Match: *` to create")
    case .idempotencyKeyInFlight:
      ProblemType(
        code, 409, "The first request with this key is still being worked on",
        "Another request with the same `Idempotency-Key` hasn't been answered yet.",
        remedy: "repeat it after a moment: the answer will be the first one's", retryAfter: 1)
    case .idempotencyKeyReused:
      ProblemType(
        code, 422, "The key belongs to another request",
        "The same `Idempotency-Key` came with a different body. Keys are kept for 24 hours.",
        remedy: "use a new key for a new request")
    case .tooManyRequests:
      ProblemType(
        code, 429, "Too many of these requests at a time",
        "Each of these requests takes much memory, so few are worked on at a time.",
        remedy: "repeat it after a moment", retryAfter: 1)
    case .tooManyStreams:
      ProblemType(
        code, 503, "Too many event streams are open",
        "As many clients as are allowed are listening for events.",
        remedy: "close streams that aren't needed, or raise the limit in the configuration", retryAfter: 5)
    case .nameTaken:
      ProblemType(
        code, 409, "The name is taken",
        "Names are unique per kind of resource.",
        remedy: "choose another name, or rename the other resource")
    case .managedByConfig:
      ProblemType(
        code, 409, "The configuration file holds this resource",
        "What the configuration declares can't be changed over the API: the next start would undo it.",
        remedy: "change the configuration file and start the server again")
    case .sourceTaken:
      ProblemType(
        code, 409, "The source is registered already",
        "Two images can't share a file, a device or an NBD export: each would miss the changes of the other.",
        remedy: "use the image that is registered")
    case .formatRequired:
      ProblemType(
        code, 422, "The image's format must be stated",
        """
        The format is never guessed: a guest can write any header into a raw disk and so have the host \
        read another file. `remedy` tells what the header looks like.
        """,
        remedy: "register it again with `format`, which you know from where the disk was made")
    case .formatMismatch:
      ProblemType(
        code, 422, "The source doesn't have the stated format",
        "The stated format's header isn't there.",
        remedy: "state the format that the disk was made with")
    case .formatUnsupported:
      ProblemType(
        code, 422, "The image uses a feature that isn't supported",
        "The image needs something that this version can't read; the detail names it.",
        remedy: "convert the image with qemu-img, or wait for a version that knows the feature")
    case .pathOutsideFolders:
      ProblemType(
        code, 422, "The path is outside the allowed folders",
        "Only files beneath the configured folders are opened, links resolved.",
        remedy: "use a path beneath an allowed folder, or add the folder to the configuration")
    case .sourceNotFound:
      ProblemType(
        code, 422, "The source doesn't exist",
        "There is no file or device at the path.",
        remedy: "check the path; it is one of the server's host")
    case .sourceNotAFile:
      ProblemType(
        code, 422, "The source isn't a regular file or an allowed device",
        "A folder, a socket, a pipe, or a device that isn't listed in the configuration.",
        remedy: "name a regular file, or list the device in the configuration")
    case .permissionDenied:
      ProblemType(
        code, 422, "The server's user has no access",
        "The operating system refuses the server's user the file, or a folder above it.",
        remedy: "give that user the right to read it, and to write it where it is to be written")
    case .backingRefused:
      ProblemType(
        code, 422, "A file that the image names is refused",
        """
        A backing or external data file is outside the folders, has no stated format, or is named by a \
        protocol. A guest could have written that name. Or too much is stacked: more than 64 files, or files whose \
        L1 tables take more than 256 MiB of memory together.
        """,
        remedy: """
          correct the image with `qemu-img rebase -u`, stating the format with -F; merge files that are stacked with \
          `qemu-img commit`
          """)
    case .imageLocked:
      ProblemType(
        code, 409, "The image is locked",
        """
        Another process, mostly QEMU, holds a lock on the image that doesn't allow this, and the detail names the \
        permission; or this server itself has one of the image's files open, and the detail says what for.
        """,
        remedy: "stop the other program, or end what this server has the image open for")
    case .imageCorrupt:
      ProblemType(
        code, 409, "The image is damaged",
        "The image's own metadata contradict each other; nothing is done with such an image but to check it.",
        remedy: "check it (POST …/check) to learn where, then restore a backup, or repair it with `qemu-img check -r`")
    case .imageInUse:
      ProblemType(
        code, 409, "The image is in use",
        """
        A job works on the image, it is attached, or exports show it. What an attached image holds changes all the \
        time: it can't be backed up, checked, overwritten or forgotten meanwhile.
        """,
        remedy: "wait for the job to end, delete the exports, or detach the image")
    case .imageNotAttached:
      ProblemType(
        code, 409, "The image isn't attached",
        "The request is about an image that is open here, and this one isn't, or couldn't be opened yet.",
        remedy: "look at the image's state; attach it first if that is what you want")
    case .peerNotAllowed:
      ProblemType(
        code, 422, "The NBD server isn't among the allowed peers",
        "The server connects only to hosts and sockets that its configuration lists.",
        remedy: "add the host or the socket to `nbdPeers` in the configuration")
    case .peerUnreachable:
      ProblemType(
        code, 409, "The NBD server can't be reached",
        """
        Nobody answers there, the handshake failed (TLS included), or the connection broke and couldn't be made \
        anew. The detail says which.
        """,
        remedy: "check that the server runs, has the export, and takes this one's TLS identity")
    case .exportInUse:
      ProblemType(
        code, 409, "An export is in use",
        "Clients are connected to the export; or an export still shows what this request would take away.",
        remedy: "disconnect the clients, or delete the export with `mode=hard`")
    case .addressUnavailable:
      ProblemType(
        code, 409, "The address can't be listened on",
        """
        Another program has the port or the socket, the host hasn't such an address, or exports that share it \
        disagree about TLS.
        """,
        remedy: "choose another address or port")
    case .tlsRequired:
      ProblemType(
        code, 422, "This address needs TLS",
        """
        Whoever reaches an export can read the disk, and perhaps write it. Beyond this host clients must prove who \
        they are, with a certificate or a pre-shared key.
        """,
        remedy: "send `tls` with x509 or psk, or listen on a unix socket or a loopback address")
    case .tlsUnavailable:
      ProblemType(
        code, 422, "TLS isn't configured for this",
        """
        x509 needs the server's certificate, its key and the authority that signs the clients' certificates; psk \
        needs the file of pre-shared keys. A peer that asks for TLS (nbds) needs the like in `peerTLS`.
        """,
        remedy: "add what is missing to `exportTLS`, or to `peerTLS`, in the configuration")
    case .bitmapBusy, .bitmapExists, .bitmapInconsistent, .bitmapLimit, .bitmapMismatch: ofBitmaps(code)
    case .extentsChanged:
      ProblemType(
        code, 409, "The image's map has changed since the first page",
        "The pages of a list of extents must be of one state of the image.",
        remedy: "begin again with offset 0 and without `generation`")
    case .repositoryUnavailable:
      ProblemType(
        code, 409, "The repository can't be reached",
        "Its folder is missing, can't be read, or isn't mounted.",
        remedy: "make the folder reachable; the repository is used again at the next request")
    case .repositoryMismatch:
      ProblemType(
        code, 409, "The folder is another repository, or something else",
        """
        The folder's repository.json has another id than the catalog knows, or the folder has other \
        content.
        """,
        remedy: "check what is mounted there, or choose an empty folder")
    case .repositoryReadOnly:
      ProblemType(
        code, 409, "The repository's storage can only be read",
        """
        Backups in it can be verified, restored and exported; nothing can be written there, so none can be made or \
        deleted.
        """,
        remedy: "mount its storage to be written; the repository is looked at again at the next request")
    case .repositoryInUse:
      ProblemType(
        code, 409, "The repository is in use",
        "A job works in it.",
        remedy: "wait for the job to end, or cancel it")
    case .repositoryLeased:
      ProblemType(
        code, 409, "Another server writes there",
        "Another server holds a lease on what this request would write.",
        remedy: "wait until it is done or its lease runs out")
    case .trackingLost:
      ProblemType(
        code, 409, "A bitmap missed a change",
        """
        What the image's bitmap called unchanged isn't what the backup before holds. The backup was not made, and the \
        bitmap is of no use: the next backup reads everything and compares it by hash.
        """,
        remedy: "start the backup again, and find out what wrote to the image without recording it")
    case .pointInTimeLost, .fleecingEnded: ofPointsInTime(code)
    case .unknownReference, .neverFires: ofPolicies(code)
    case .backupNotComplete:
      ProblemType(
        code, 409, "The backup isn't complete",
        "Only a complete backup can be verified or restored.",
        remedy: "take another backup of the same image")
    case .backupHasDependents:
      ProblemType(
        code, 409, "Other backups depend on this one",
        "They hold only what changed since; without this one they couldn't be restored.",
        remedy: "delete the dependents first; they are listed in the detail")
    case .backupCorrupt:
      ProblemType(
        code, 409, "The backup is damaged",
        "Verification or reading found that its content isn't what was stored.",
        remedy: "restore from another backup, and check the repository's storage")
    case .targetExists:
      ProblemType(
        code, 409, "The target exists already",
        "A restore to a file never overwrites one.",
        remedy: "choose another path, or remove the file. To overwrite an image, name it as the target")
    case .targetMismatch:
      ProblemType(
        code, 422, "The target doesn't fit the backup",
        "Its size isn't the backup's, or it can't be written.",
        remedy: "choose a target of the same size")
    case .confirmationRequired:
      ProblemType(
        code, 422, "This must be confirmed",
        "Restoring over an image destroys what it holds now. Writing to an image on which registered overlays stand, "
          + "as attaching it allows, changes what they read.",
        remedy: "read the plan with dryRun=true, and send the image's name in `confirm` if that is meant")
    case .jobFinished:
      ProblemType(
        code, 409, "The job has ended",
        "An ended job can't be cancelled, paused or resumed.",
        remedy: "start a new one")
    case .jobNotPausable:
      ProblemType(
        code, 409, "The job can't be paused or resumed now",
        "Only a running job can be paused, and only a paused one resumed.",
        remedy: "look at its state")
    case .queueFull:
      ProblemType(
        code, 503, "Too much is asked for at once",
        "The queue of jobs is full, or there are as many exports as there may be.",
        remedy: "try again when some jobs have ended, or delete exports that nobody needs", retryAfter: 10)
    case .storageFull:
      ProblemType(
        code, 507, "The storage is full",
        "Writing failed for lack of space. What was half written has been removed.",
        remedy: "make room, then try again")
    case .tempFull:
      ProblemType(
        code, 507, "There is no room for what guests change",
        "The folder for the temps of live backups has less room than a backup needs to begin. Nothing was begun.",
        remedy: "make room in `fleecingFolder`, or have it on another file system")
    case .ioError:
      ProblemType(
        code, 500, "Reading or writing failed",
        "The operating system reported an error. The detail names the file and the error.",
        remedy: "check the storage that the detail names")
    case .cancelled:
      ProblemType(
        code, 409, "The job was cancelled",
        "Somebody cancelled the job; what it had begun has been removed.",
        remedy: "start it again if it is still wanted")
    case .interrupted:
      ProblemType(
        code, 409, "The server stopped in the middle",
        "The server ended while the job ran; what it had begun has been removed.",
        remedy: "start it again: a retry is a new job")
    case .stopping:
      ProblemType(
        code, 503, "The server is stopping",
        "It finishes what it has begun and takes nothing new.",
        remedy: "try again in a moment", retryAfter: 5)
    case .notReady:
      ProblemType(
        code, 503, "The server isn't ready",
        "The server runs, but its catalog can't be read or changed for now: another program holds it locked, or its disk "
          + "doesn't answer. A change that waits longer than ten seconds is given up, and nothing of it is stored.",
        remedy: "try again, and look at the server's log if it goes on", retryAfter: 5)
    case .internalError:
      ProblemType(
        code, 500, "The server failed",
        "This is a fault in the server. Its log has the cause under the request id.",
        remedy: "report it with the request id in `instance`")
    }
  }
}
