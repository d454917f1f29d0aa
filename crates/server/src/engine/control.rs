//! Each verb of the control plane, and who may ask for it.

use super::running::Engine;
use api::{
    Answer, Caller, Chunks, Control, Failure, Request,
    verbs::{export, past, store::Stopping},
};

impl Control for Engine {
    fn call(&self, who: &Caller, request: Request) -> Result<Answer, Failure> {
        self.must_manage(who)?;
        Ok(match request {
            Request::StoreInfo(_) => Answer::StoreInfo(self.store_info()?),
            Request::StoreCheck(request) => Answer::StoreCheck(self.store_check(&request)?),
            Request::StoreRepair(request) => Answer::StoreRepair(self.store_repair(request)?),
            Request::StoreGc(request) => Answer::StoreGc(self.store_gc(request)?),
            Request::KeyAdd(request) => Answer::KeyAdd(self.key_add(&request)?),
            Request::KeyLs(_) => Answer::KeyLs(self.key_ls()),
            Request::KeyRotate(request) => Answer::KeyRotate(self.key_rotate(&request)?),
            Request::KeyRemove(request) => Answer::KeyRemove(self.key_rm(request)?),
            Request::TrashLs(_) => Answer::TrashLs(self.trash_ls()?),
            Request::TrashEmpty(request) => Answer::TrashEmpty(self.trash_empty(&request)?),
            Request::VolCreate(request) => Answer::VolCreate(self.vol_create(request)?),
            Request::VolLs(_) => Answer::VolLs(self.vol_ls()?),
            Request::VolShow(request) => Answer::VolShow(self.vol_show(&request)?),
            Request::VolSet(request) => Answer::VolSet(self.vol_set(&request)?),
            Request::VolResize(request) => Answer::VolResize(self.vol_resize(request)?),
            Request::VolRename(request) => Answer::VolRename(self.vol_rename(request)?),
            Request::VolRemove(request) => Answer::VolRemove(self.vol_rm(&request)?),
            Request::VolUndelete(request) => Answer::VolUndelete(self.vol_undelete(request)?),
            Request::VolRelease(request) => Answer::VolRelease(self.vol_release(request)?),
            Request::Log(request) => Answer::Log(self.log(&request)?),
            Request::MarkAdd(request) => Answer::MarkAdd(self.mark_add(&request)?),
            Request::MarkLs(request) => Answer::MarkLs(self.mark_ls(&request)?),
            Request::MarkRemove(request) => Answer::MarkRemove(self.mark_rm(&request)?),
            Request::MarkPin(request) => Answer::MarkPin(self.mark_pin(&request)?),
            Request::Open(request) => Answer::Open(self.open_past(&request)?),
            Request::Close(request) => Answer::Close(self.close_past(&request)?),
            Request::Clone(request) => Answer::Clone(self.clone_past(request)?),
            Request::Rewind(request) => Answer::Rewind(self.rewind(&request)?),
            Request::Diff(request) => Answer::Diff(self.diff(&request)?),
            Request::ImageAdopt(request) => Answer::ImageAdopt(self.image_adopt(who, request)?),
            Request::ImageFill(request) => Answer::ImageFill(self.image_fill(who, request)?),
            Request::ExportDescribe(request) => {
                Answer::ExportDescribe(self.export_describe(&request)?)
            }
            Request::SessionLs(request) => Answer::SessionLs(self.session_ls(&request)?),
            Request::SessionKick(request) => Answer::SessionKick(self.session_kick(request)?),
            Request::Status(_) => Answer::Status(self.status()?),
            Request::Doctor(_) => Answer::Doctor(self.doctor()?),
            Request::Stop(_) => {
                let clients = self.pulse()?.clients;
                self.end()?;
                Answer::Stop(Stopping { clients })
            }
        })
    }

    fn read(&self, who: &Caller, request: past::Read) -> Result<Box<dyn Chunks>, Failure> {
        self.must_manage(who)?;
        self.read_past(&request)
    }

    fn export(&self, who: &Caller, request: export::Read) -> Result<Box<dyn Chunks>, Failure> {
        self.must_manage(who)?;
        self.export_read(&request)
    }
}
